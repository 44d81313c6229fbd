// Says a reply to a screen reader sentence by sentence, not token by token.

import { announce } from "./dom.js";

const ENDS = ["。", "！", "？", "!", "?", "\n", ". "];

const LONGEST = 2000;

/** Announces what is new in a text that grows. */
export class Speaker {
  constructor() {
    this.said = 0;
  }

  hear(text, { last = false } = {}) {
    const fresh = text.slice(this.said);
    const length = last ? fresh.length : Math.max(...ENDS.map((end) => fresh.lastIndexOf(end))) + 1;
    this.said += length;
    const words = fresh.slice(0, Math.min(length, LONGEST)).replace(/[`*_#>|]+/g, " ").trim();
    if (words) announce(words);
  }
}
