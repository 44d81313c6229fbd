// Elements, built node by node: no text of this page ever passes through an HTML parser.

import { t } from "./i18n.js";

const SPECIAL = {
  class: (node, value) => { node.className = value; },
  on: (node, value) => {
    for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
  },
  data: (node, value) => Object.assign(node.dataset, value),
  // Words of the interface; `translate` in i18n.js finds them again when the language changes.
  t: (node, key) => { node.dataset.t = key; node.textContent = t(key); },
  label: (node, key) => {
    node.dataset.label = key;
    node.setAttribute("aria-label", t(key));
    node.title = t(key);
  },
  hint: (node, key) => { node.dataset.hint = key; node.placeholder = t(key); },
};

/** An element with its properties, listeners and children; strings become text nodes. */
export function h(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name in SPECIAL) SPECIAL[name](node, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// Strokes on a field of 24 by 24.
const ICONS = {
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 13l4.5 4.5L19 7",
  retry: "M20 11a8 8 0 1 0-2.3 6.3M20 4v7h-7",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4.5 4.5",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19M19 5l-1.4 1.4M6.4 17.6 5 19",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z",
  auto: "M4 5h16v11H4zM9 20h6M12 16v4",
  up: "M7 11v9H4v-9zM7 11l4-8c1.5 0 2.5 1 2.5 2.5V9H19a1.5 1.5 0 0 1 1.5 1.8l-1.3 7.5A2 2 0 0 1 17.2 20H7",
  dislike: "M17 13V4h3v9zM17 13l-4 8c-1.5 0-2.5-1-2.5-2.5V15H5a1.5 1.5 0 0 1-1.5-1.8l1.3-7.500A2 2 0 0 1 6.8 4H17",
};

/** A drawing that says nothing to a screen reader. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A round button with a drawing; `label` names it. */
export function iconButton(name, label, click, more = {}) {
  return h("button", { type: "button", class: "icon-button", label, on: { click }, ...more },
    icon(name));
}

/** Copies a text; true where it worked. Pages that are not https have no clipboard API. */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Refused by the browser's settings: the older way may still work.
    }
  }
  const area = h("textarea", { class: "visually-hidden", readonly: true });
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus({ preventScroll: true });
  return copied;
}

/** A button that copies what `text()` gives and says so. */
export function copyButton(text, label = "copy") {
  const button = iconButton("copy", label, async () => {
    const copied = await copyText(text());
    button.replaceChildren(icon(copied ? "check" : "close"));
    announce(t(copied ? "copied" : "copy_failed"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** Says a text through the screen reader. */
export function announce(text) {
  const region = document.getElementById("announcer");
  region.append(h("p", {}, text));
  while (region.childElementCount > 4) region.firstElementChild.remove();
}

/** A note at the foot of the page for some seconds, with at most one thing to do. */
export function toast(key, action) {
  const note = h("div", { class: "toast", role: "status" }, h("span", { t: key }));
  if (action) {
    note.append(h("button", {
      type: "button",
      class: "link-button",
      t: action.key,
      on: { click: () => { note.remove(); action.run(); } },
    }));
  }
  document.getElementById("toasts").replaceChildren(note);
  setTimeout(() => note.remove(), action ? 12000 : 5000);
}

/** Saves a text as a file on the reader's side. */
export function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
