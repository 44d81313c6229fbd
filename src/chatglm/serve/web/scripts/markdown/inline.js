// What stands within a line of Markdown: emphasis, code, links, formulas. Builds nodes; HTML is text.

import { h } from "../dom.js";
import { formula } from "./formula.js";

const LONGEST = 20000;
const DEEPEST = 16;
const SAFE = new Set(["http:", "https:", "mailto:"]);
const PLAIN = /[^\\`*_~[\]!<$\nh]+/y;
const BARE = /https?:\/\/[^\s<>"'`，。；：！？、（）《》「」【】“”\u3000]+/y;
const WORD = /[\p{L}\p{N}_]/u;
const SPACE = /\s/u;

/** The address of a link that may be followed, or null. */
export function safeAddress(text) {
  try {
    const address = new URL(text.trim());
    return SAFE.has(address.protocol) ? address.href : null;
  } catch {
    return null;  // relative or broken: it leads nowhere from here
  }
}

function link(address, ...children) {
  return h("a", {
    href: address,
    title: address,
    target: "_blank",
    rel: "noopener noreferrer nofollow",
  }, ...children);
}

/** One pass over a text; `items` holds nodes, and marks whose meaning is known at the end. */
class Scanner {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.items = [];
    this.brackets = [];
    this.lastRun = new Map();  // length of a run of backticks → where the last one starts
    for (const run of text.matchAll(/`+/g)) this.lastRun.set(run[0].length, run.index);
  }

  put(node) {
    const last = this.items.at(-1);
    if (typeof node === "string" && last?.kind === "text" && !last.bracket) last.text += node;
    else if (typeof node === "string") this.items.push({ kind: "text", text: node });
    else this.items.push({ kind: "node", node, depth: 1 });
  }

  scan() {
    const { text } = this;
    while (this.at < text.length) {
      PLAIN.lastIndex = this.at;
      const plain = PLAIN.exec(text);
      if (plain) {
        this.put(plain[0]);
        this.at = PLAIN.lastIndex;
        continue;
      }
      const mark = text[this.at];
      if (!this.special(mark)) {
        this.put(mark);
        this.at += 1;
      }
    }
    return emphasize(this.items);
  }

  special(mark) {
    switch (mark) {
      case "\\": return this.backslash();
      case "`": return this.code();
      case "*": case "_": case "~": return this.run(mark);
      case "!": return this.text[this.at + 1] === "[" && this.open(2);
      case "[": return this.open(1);
      case "]": return this.close();
      case "<": return this.angle();
      case "$": return this.dollar();
      case "\n": return this.newline();
      default: return this.bare();
    }
  }

  newline() {
    this.put(h("br"));
    this.at += 1;
    return true;
  }

  backslash() {
    const next = this.text[this.at + 1];
    if (next === "(" || next === "[") {
      const end = this.text.indexOf(next === "(" ? "\\)" : "\\]", this.at + 2);
      if (end > this.at + 2) return this.formula(this.at + 2, end, end + 2, next === "[");
    }
    if (next === undefined || !/[!-/:-@[-`{-~\n]/.test(next)) return false;
    this.put(next === "\n" ? h("br") : next);
    this.at += 2;
    return true;
  }

  formula(start, end, after, display) {
    const source = this.text.slice(start, end).trim();
    if (!source) return false;
    this.put(formula(source, display));
    this.at = after;
    return true;
  }

  dollar() {
    const { text, at } = this;
    if (text[at + 1] === "$") {
      const end = text.indexOf("$$", at + 2);
      return end > 0 && this.formula(at + 2, end, end + 2, true);
    }
    // A price is no formula: the source touches both marks, and no digit follows the second.
    const end = text.indexOf("$", at + 1);
    const source = text.slice(at + 1, end);
    if (end < 0 || end - at > 1000 || !source || source.includes("\n\n")) return false;
    if (SPACE.test(source[0]) || SPACE.test(source.at(-1)) || /\d/.test(text[end + 1] ?? "")) return false;
    return this.formula(at + 1, end, end + 1, false);
  }

  code() {
    const { text, at } = this;
    let length = 1;
    while (text[at + length] === "`") length += 1;
    if ((this.lastRun.get(length) ?? -1) > at) {
      const runs = /`+/g;
      runs.lastIndex = at + length;
      for (let run = runs.exec(text); run; run = runs.exec(text)) {
        if (run[0].length !== length) continue;
        const source = text.slice(at + length, run.index).replaceAll("\n", " ");
        this.put(h("code", {}, source.trim() ? source.replace(/^ (.*) $/, "$1") : source));
        this.at = run.index + length;
        return true;
      }
    }
    this.put(text.slice(at, at + length));
    this.at += length;
    return true;
  }

  run(mark) {
    const { text, at } = this;
    let count = 1;
    while (text[at + count] === mark) count += 1;
    const before = text[at - 1] ?? "\n";
    const after = text[at + count] ?? "\n";
    // Chinese has no spaces between words: unlike in CommonMark, punctuation inside does not keep ** open.
    let opens = !SPACE.test(after);
    let closes = !SPACE.test(before);
    if (mark === "_") {
      opens &&= !WORD.test(before);
      closes &&= !WORD.test(after);
    }
    if (mark === "~" && count !== 2) opens = closes = false;
    this.items.push({ kind: "mark", mark, count, original: count, opens, closes });
    this.at += count;
    return true;
  }

  open(length) {
    this.brackets.push(this.items.length);
    this.items.push({ kind: "text", text: this.text.slice(this.at, this.at + length), bracket: length });
    this.at += length;
    return true;
  }

  close() {
    const opener = this.brackets.pop();
    const tail = /\]\(\s*(<[^<>\n]*>|[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+["'(][^\n]{0,500}?["')])?\s*\)/y;
    tail.lastIndex = this.at;
    const found = opener === undefined ? null : tail.exec(this.text);
    if (!found) return false;
    const inner = emphasize(this.items.splice(opener + 1));
    const image = this.items.pop().bracket === 2;
    const address = safeAddress(found[1].replace(/^<|>$/g, ""));
    // Pictures are not fetched: an address could carry what was said to whoever wrote it.
    this.put(address ? link(address, inner) : h("span", { class: "dead-link", title: found[1] }, inner));
    if (!image) this.brackets.length = 0;  // no link within a link
    this.at = tail.lastIndex;
    return true;
  }

  angle() {
    const tag = /<(?:br\s*\/?|(https?:\/\/[^\s<>]+|mailto:[^\s<>]+))>/iy;
    tag.lastIndex = this.at;
    const found = tag.exec(this.text);
    if (!found) return false;
    const address = found[1] && safeAddress(found[1]);
    this.put(found[1] ? (address ? link(address, found[1]) : found[1]) : h("br"));
    this.at = tag.lastIndex;
    return true;
  }

  bare() {
    BARE.lastIndex = this.at;
    const found = BARE.exec(this.text);
    if (!found || /\w/.test(this.text[this.at - 1] ?? " ")) return false;
    const shown = found[0].replace(/[.,;:!?)\]*_~]+$/, "");
    const address = safeAddress(shown);
    this.put(address ? link(address, shown) : shown);
    this.at += shown.length;
    return true;
  }
}

const bottomKey = (item) => `${item.mark}${item.opens}${item.original % 3}`;

/** The nodes of items, with pairs of marks turned into emphasis (CommonMark's algorithm). */
function emphasize(items) {
  const bottoms = new Map();  // below this index no opener for such a closer was found
  for (let i = 0; i < items.length; i += 1) {
    const closer = items[i];
    if (closer.kind !== "mark" || !closer.closes || closer.count === 0) continue;
    const bottom = bottoms.get(bottomKey(closer)) ?? -1;
    let j = i - 1;
    while (j > bottom && !pairs(items[j], closer)) j -= 1;
    if (j <= bottom) {
      bottoms.set(bottomKey(closer), i - 1);
      continue;
    }
    const opener = items[j];
    const strength = opener.count >= 2 && closer.count >= 2 ? 2 : 1;
    const inner = items.slice(j + 1, i);
    const depth = 1 + inner.reduce((most, item) => Math.max(most, item.depth ?? 0), 0);
    if (depth > DEEPEST) continue;
    const tag = closer.mark === "~" ? "s" : strength === 2 ? "strong" : "em";
    const node = h(tag, {}, ...inner.map(toNode));
    opener.count -= strength;
    closer.count -= strength;
    items.splice(j + 1, i - j - 1, { kind: "node", node, depth });
    i = closer.count > 0 ? j + 1 : j + 2;
    for (const [key, index] of bottoms) if (index > j) bottoms.set(key, j);
  }
  const fragment = document.createDocumentFragment();
  fragment.append(...items.map(toNode));
  return fragment;
}

function pairs(opener, closer) {
  if (opener.kind !== "mark" || opener.mark !== closer.mark || !opener.opens || opener.count === 0) return false;
  if (closer.mark === "~") return opener.count === closer.count;
  const both = opener.closes || closer.opens;
  const sum = opener.original + closer.original;
  return !(both && sum % 3 === 0 && (opener.original % 3 !== 0 || closer.original % 3 !== 0));
}

function toNode(item) {
  if (item.kind === "node") return item.node;
  return item.kind === "mark" ? item.mark.repeat(item.count) : item.text;
}

/** A fragment for the text of a paragraph, heading or cell. */
export function inline(text) {
  if (text.length <= LONGEST) return new Scanner(text).scan();
  const fragment = document.createDocumentFragment();
  fragment.append(text);
  return fragment;
}
