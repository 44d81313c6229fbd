// Markdown shown as elements. A text that grows keeps the elements of its finished blocks.

import { copyButton, h } from "../dom.js";
import { readBlocks } from "./blocks.js";
import { formula } from "./formula.js";
import { highlight } from "./highlight.js";
import { inline } from "./inline.js";

// Beyond this a text is shown as it stands: nobody reads its tables, and the page stays quick.
const LONGEST = 200000;

function codeBlock({ language, text }) {
  const code = h("code", {}, highlight(text, language));
  return h("figure", { class: "code-block" },
    h("figcaption", {}, h("span", {}, language || "text"), copyButton(() => text, "copy_code")),
    h("pre", { tabindex: "0" }, code));
}

function table({ head, align, rows }) {
  const side = (i) => `align-${align[i] ?? "left"}`;
  const row = (tag, texts) => h("tr", {},
    ...head.map((_, i) => h(tag, { class: side(i) }, inline(texts[i] ?? ""))));
  return h("div", { class: "table-scroll", tabindex: "0" }, h("table", {},
    h("thead", {}, row("th", head)),
    h("tbody", {}, ...rows.map((texts) => row("td", texts)))));
}

function listItem({ blocks, done }, loose) {
  const item = h("li");
  if (done !== undefined) {
    item.className = "task";
    item.append(h("input", { type: "checkbox", disabled: true, checked: done }));
  }
  for (const block of blocks) {
    item.append(block.kind === "paragraph" && !loose ? inline(block.text) : element(block));
  }
  return item;
}

function list({ ordered, start, items, loose }) {
  const properties = ordered && start !== 1 ? { start } : {};
  return h(ordered ? "ol" : "ul", properties, ...items.map((item) => listItem(item, loose)));
}

function element(block) {
  switch (block.kind) {
    case "code": return codeBlock(block);
    case "formula": return h("div", { class: "formula-row", tabindex: "0" }, formula(block.text, true));
    // The page's own headings end at h2.
    case "heading": return h(`h${Math.min(6, block.level + 2)}`, { class: `level-${block.level}` }, inline(block.text));
    case "rule": return h("hr");
    case "table": return table(block);
    case "quote": return h("blockquote", {}, ...block.blocks.map(element));
    case "list": return list(block);
    default: return h("p", {}, inline(block.text));
  }
}

// Lines with their indents in spaces; within code a tab stays a tab.
function linesOf(text) {
  let fence = "";
  return text.replace(/\r\n?/g, "\n").split("\n").map((line) => {
    const mark = /^\s{0,12}(`{3,}|~{3,})/.exec(line)?.[1] ?? "";
    if (mark && (!fence || mark.startsWith(fence))) fence = fence ? "" : mark;
    return fence ? line : line.replace(/^[ \t]+/, (indent) => indent.replaceAll("\t", "    "));
  });
}

/** Shows a text within a node that holds nothing else. */
export function renderInto(node, text) {
  const short = text.length <= LONGEST ? text : "";
  const blocks = readBlocks(linesOf(short));
  if (!short && text) {
    node.replaceChildren(h("pre", { class: "plain", tabindex: "0" }, text));
    node.rendered = [];
    return;
  }
  const rendered = node.rendered ?? [];
  let same = 0;
  while (same < blocks.length && rendered[same] === blocks[same].raw) same += 1;
  while (node.children.length > same) node.lastElementChild.remove();
  for (const block of blocks.slice(same)) node.append(element(block));
  node.rendered = blocks.map((block) => block.raw);
}
