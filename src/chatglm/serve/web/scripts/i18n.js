// The two languages of the interface. A key that is missing in one is an error of ours, shown as the key.

import { WORDS } from "./words.js";
import { settings } from "./settings.js";

/** `zh` or `en`: what was chosen, else what the browser asks for. */
export function language() {
  const chosen = settings.get("language");
  if (chosen === "zh" || chosen === "en") return chosen;
  const wanted = navigator.languages?.length ? navigator.languages : [navigator.language || "en"];
  return wanted[0].toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** The words for a key, with {names} replaced. */
export function t(key, values = {}) {
  const pair = WORDS[key];
  const text = pair ? pair[language() === "zh" ? 0 : 1] : key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** Puts every word of the interface below `root` into the language of now. */
export function translate(root = document) {
  document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
    node.title = t(node.dataset.label);
  }
  for (const node of root.querySelectorAll("[data-hint]")) node.placeholder = t(node.dataset.hint);
  if (root === document) document.dispatchEvent(new Event("language"));
}
