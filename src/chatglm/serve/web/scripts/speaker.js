// Says a reply to a screen reader sentence by sentence, not token by token.

import { announce } from "./dom.js";

const SENTENCE = /[^。！？!?\n]*(?:[。！？!?\n]+|\.\s)/g;

/** Announces what is new in a text that grows. */
export class Speaker {
  constructor() {
    this.said = 0;
  }

  hear(text, { last = false } = {}) {
    const fresh = text.slice(this.said);
    let length = 0;
    if (last) length = fresh.length;
    else for (const sentence of fresh.matchAll(SENTENCE)) length = sentence.index + sentence[0].length;
    const words = fresh.slice(0, length).replace(/[`*_#>|]+/g, " ").trim();
    this.said += length;
    if (words) announce(words.slice(0, 2000));
  }
}
