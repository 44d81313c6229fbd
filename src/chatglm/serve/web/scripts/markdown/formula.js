// Formulas as MathML, drawn by the browser itself. Temml is fetched when the first formula comes.

import { h } from "../dom.js";

const LONGEST = 4000;
let temml;
let loading;

function load() {
  loading ??= import("../../vendor/temml/temml.mjs").then((module) => { temml = module.default; });
  return loading;
}

// A formula may name what it likes: ids and links of its own are taken out, so that it can neither take
// the place of a part of this page nor lead anywhere.
function harmless(root) {
  for (const node of [root, ...root.querySelectorAll("*")]) {
    for (const { name } of [...node.attributes]) {
      if (name === "id" || name.endsWith("href") || name === "src" || name.startsWith("on")) {
        node.removeAttribute(name);
      }
    }
    if (node.localName === "a" || node.localName === "img") node.replaceWith(...node.childNodes);
  }
}

function draw(node, source, display) {
  try {
    const drawn = document.createElement("span");
    temml.render(source, drawn, {
      displayMode: display,
      throwOnError: true,
      trust: false,
      maxExpand: 500,
      maxSize: [30, 400],
      macros: {},
    });
    harmless(drawn);
    node.replaceChildren(...drawn.childNodes);
  } catch {
    node.classList.add("formula-unread");  // its source stays, which is what the model wrote
  }
}

/** A formula; until it can be drawn, and where it cannot, its source. */
export function formula(source, display) {
  const node = h("span", { class: display ? "formula formula-display" : "formula" },
    h("code", {}, source));
  if (source.length > LONGEST) return node;
  if (temml) draw(node, source, display);
  else load().then(() => draw(node, source, display), () => {});
  return node;
}
