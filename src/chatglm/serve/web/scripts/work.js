// A panel that does one piece of work: a form, a button that starts and stops it, what came of it.

import { connection } from "./connection.js";
import { announce, copyButton, h } from "./dom.js";
import { t } from "./i18n.js";

const ERRORS = { lost: "error_lost", key: "error_key", busy: "error_busy", missing: "error_missing" };

/** `run({signal, begin, stats})` works and gives a line about it; `begin()` shows the result's place,
 * `stats(text)` a line about how far it is. */
export class Work {
  constructor({ name, button, fields, examples = [], view, ready, text, run }) {
    Object.assign(this, { run, ready, text, startKey: button });
    this.button = h("button", { type: "submit", class: "pill primary", t: button });
    const controls = fields.find((field) => field.classList.contains("controls"))
      ?? h("div", { class: "controls" });
    controls.append(h("div", { class: "push" }, this.button));
    this.form = h("form", {}, ...new Set([...fields, controls]));
    this.note = h("p", { class: "note error", hidden: true, role: "alert" });
    this.stats = h("span", { class: "stats" });
    this.result = h("div", { class: "result", hidden: true, role: "region", label: "result" },
      h("div", { class: "result-body" }, view),
      h("div", { class: "result-foot" }, copyButton(() => this.text()), this.stats));
    this.result.removeAttribute("title");
    this.element = h("div", { class: "work" }, h("div", { class: "work-inner" },
      h("h2", { t: `tab_${name}` }), h("p", { class: "lead", t: `${name}_lead` }), this.form,
      examples.length ? h("div", { class: "examples" }, h("span", { class: "quiet", t: "examples" }), ...examples) : null,
      this.note, this.result));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.abort) this.abort.abort();
      else this.submit();
    });
    this.form.addEventListener("input", () => this.update());
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) this.form.requestSubmit();
    });
    this.update();
  }

  update() {
    this.button.disabled = !this.abort && !this.ready();
    this.button.dataset.t = this.abort ? "stop" : this.startKey;
    this.button.textContent = t(this.button.dataset.t);
  }

  async submit() {
    if (this.abort || !this.ready()) return;
    this.abort = new AbortController();
    this.note.hidden = true;
    this.stats.textContent = "";
    this.result.setAttribute("aria-busy", "true");
    this.update();
    try {
      const begin = () => { this.result.hidden = false; };
      const stats = (text) => { this.stats.textContent = text; };
      stats(await this.run({ signal: this.abort.signal, begin, stats }) ?? "");
      announce(this.text().slice(0, 2000));
    } catch (error) {
      if (error.name === "AbortError") this.stats.textContent = t("note_stopped");
      else this.fail(error);
    } finally {
      this.abort = null;
      this.result.removeAttribute("aria-busy");
      this.update();
    }
  }

  fail(error) {
    if (error.kind === "lost") connection.lost();
    if (error.kind === "key") document.dispatchEvent(new Event("key-wanted"));
    this.note.hidden = false;
    this.note.replaceChildren(
      h("span", {}, `${t(ERRORS[error.kind] ?? "error_failed")}${error.message ? ` ${error.message}` : ""}`),
      h("button", { type: "button", class: "pill", t: "retry", on: { click: () => this.submit() } }),
    );
    if (!this.text()) this.result.hidden = true;
  }
}
