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

const REMARKS = Object.entries(WORDS)
  .filter(([key]) => key.startsWith("remark_"))
  .map(([key, [, english]]) => [key, new RegExp(`^${english.replace(/\{(\w+)\}/g, "(?<$1>.+?)")}$`, "s")]);

/** A remark of the service, which is English, in the language of now; one that has no words here as it is. */
export function remark(text) {
  for (const [key, pattern] of REMARKS) {
    const found = pattern.exec(text);
    if (!found) continue;
    const values = { ...found.groups };
    if (values.remark) values.remark = remark(values.remark);
    return t(key, values);
  }
  return text;
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
