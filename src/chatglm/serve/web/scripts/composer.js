// The field where one writes. Enter sends, except while an input method is choosing characters.

import { h, icon } from "./dom.js";
import { t } from "./i18n.js";

const touch = window.matchMedia("(pointer: coarse)");

/** Whether a key event belongs to an input method: also Safari's Enter after the composition's end. */
export function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}

/** A form with a growing field and one button that sends or stops. */
export class Composer {
  constructor({ onSend, onStop }) {
    this.onSend = onSend;
    this.onStop = onStop;
    this.busy = false;
    this.composing = false;
    this.area = h("textarea", {
      id: "composer",
      rows: 1,
      hint: "write_here",
      label: "write_here",
      autocomplete: "off",
      enterkeyhint: touch.matches ? "enter" : "send",
    });
    this.area.removeAttribute("title");
    this.button = h("button", { type: "submit", class: "send-button", id: "send" });
    this.element = h("form", { class: "composer" }, this.area, this.button);
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.busy) this.onStop();
      else this.send();
    });
    this.area.addEventListener("compositionstart", () => { this.composing = true; });
    this.area.addEventListener("compositionend", () => { this.composing = false; });
    this.area.addEventListener("keydown", (event) => this.key(event));
    this.area.addEventListener("input", () => this.changed());
    this.setBusy(false);
  }

  get text() {
    return this.area.value;
  }

  set text(value) {
    this.area.value = value;
    this.changed();
  }

  key(event) {
    if (event.key !== "Enter" || event.shiftKey || this.composing || isComposing(event)) return;
    if (touch.matches && !event.ctrlKey && !event.metaKey) return;  // a phone's Enter is a new line
    event.preventDefault();
    if (!this.busy) this.send();
  }

  send() {
    const text = this.area.value.trim();
    if (!text) return;
    this.text = "";
    this.onSend(text);
  }

  changed() {
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight}px`;
    this.button.disabled = !this.busy && !this.area.value.trim();
    this.onDraft?.(this.area.value);
  }

  /** Shows the button that stops, or the one that sends. */
  setBusy(busy) {
    this.busy = busy;
    this.button.classList.toggle("stopping", busy);
    this.button.replaceChildren(icon(busy ? "stop" : "send"));
    const key = busy ? "stop" : "send";
    this.button.dataset.label = key;
    this.button.title = t(key);
    this.button.setAttribute("aria-label", t(key));
    this.button.disabled = !busy && !this.area.value.trim();
  }

  focus() {
    this.area.focus({ preventScroll: true });
  }
}
