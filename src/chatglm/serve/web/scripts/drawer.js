// The drawer: system prompt, the numbers that steer replies, the key, what to do with the conversations.

import { h, iconButton } from "./dom.js";
import { exportAll, importFile } from "./export.js";
import { t } from "./i18n.js";
import { models } from "./models.js";
import { apiKey, SAMPLING, settings } from "./settings.js";

function numberField({ name, min, max, step }) {
  const input = h("input", {
    type: "number", id: `set-${name}`, min, max, step: "any", inputmode: "decimal", hint: "default",
    "aria-describedby": `about-${name}`,
  });
  const show = () => { input.value = (settings.get("sampling") ?? {})[name] ?? ""; };
  input.addEventListener("change", () => {
    const chosen = { ...(settings.get("sampling") ?? {}) };
    const value = Number(input.value);
    if (input.value === "" || !Number.isFinite(value)) delete chosen[name];
    else chosen[name] = Math.min(max, Math.max(min, step === 1 ? Math.round(value) : value));
    settings.set("sampling", Object.keys(chosen).length ? chosen : undefined);
    show();
  });
  document.addEventListener("setting", ({ detail }) => detail === "sampling" && show());
  show();
  return h("div", { class: "field" },
    h("label", { for: input.id }, h("span", { t: `set_${name}` }), h("code", {}, name)),
    input,
    h("small", { id: `about-${name}`, t: `about_${name}` }));
}

function keySection() {
  const input = h("input", { type: "password", id: "api-key", autocomplete: "off", spellcheck: "false" });
  input.value = apiKey.get();
  input.addEventListener("change", () => {
    apiKey.set(input.value.trim());
    models.load();
  });
  const form = h("form", {}, h("div", { class: "field" }, h("label", { for: "api-key", t: "key_label" }), input,
    h("small", { t: "key_about" })));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    input.blur();
  });
  const section = h("section", { hidden: !apiKey.get() }, h("h3", { t: "key" }), form);
  document.addEventListener("key-wanted", () => {
    section.hidden = false;
    input.value = apiKey.get();
  });
  return section;
}

/** A dialog at the right edge; `open()` shows it for the conversation of now. */
export class Drawer {
  constructor({ chat, store }) {
    this.chat = chat;
    this.system = h("textarea", { id: "system", rows: 5, hint: "system_hint" });
    this.system.addEventListener("change", () => chat.setSystem(this.system.value.trim()));
    this.scope = h("small");
    this.dialog = h("dialog", { class: "drawer", "aria-labelledby": "drawer-title", id: "drawer" },
      h("header", {}, h("h2", { id: "drawer-title", t: "settings" }), iconButton("close", "close", () => this.close())),
      h("div", { class: "drawer-body" },
        h("section", {}, h("div", { class: "field" }, h("label", { for: "system" }, h("span", { t: "system" })),
          this.system, this.scope)),
        keySection(),
        h("section", {}, h("div", { class: "section-head" }, h("h3", { t: "sampling" }),
          h("button", { type: "button", class: "link-button", t: "reset", on: { click: () => settings.set("sampling", undefined) } })),
        h("div", { class: "fields" }, ...SAMPLING.map(numberField))),
        h("section", {}, h("h3", { t: "data" }), h("p", { class: "quiet", t: "data_about" }), this.dataButtons(store))));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.close());
    document.body.append(this.dialog);
  }

  dataButtons(store) {
    const file = h("input", { type: "file", accept: "application/json,.json", class: "visually-hidden", tabindex: "-1", label: "import" });
    file.addEventListener("change", async () => {
      if (file.files[0]) await importFile(store, file.files[0]);
      file.value = "";
    });
    return h("div", { class: "row" },
      h("button", { type: "button", class: "pill", t: "export_all", on: { click: () => exportAll(store) } }),
      h("button", { type: "button", class: "pill", t: "import", on: { click: () => file.click() } }), file);
  }

  open() {
    this.system.value = this.chat.system;
    this.scope.textContent = t(this.chat.conversation ? "system_here" : "system_new");
    this.dialog.showModal();
  }

  close() {
    this.dialog.close();
  }
}

/** Asks for the key of the service whenever it wants one. */
export function watchKey() {
  const input = h("input", { type: "password", id: "key-field", autocomplete: "off", spellcheck: "false", required: true });
  const dialog = h("dialog", { class: "card", "aria-labelledby": "key-title", id: "key-dialog" },
    h("form", { method: "dialog" }, h("h2", { id: "key-title", t: "key_wanted" }), h("p", { t: "key_about" }),
      h("label", { for: "key-field", t: "key_label" }), input,
      h("div", { class: "row end" },
        h("button", { type: "button", class: "pill", t: "cancel", on: { click: () => dialog.close() } }),
        h("button", { type: "submit", class: "pill primary", t: "ok" }))));
  dialog.querySelector("form").addEventListener("submit", () => {
    apiKey.set(input.value.trim());
    input.value = "";
    models.load();
  });
  document.body.append(dialog);
  document.addEventListener("key-wanted", () => {
    if (!dialog.open) dialog.showModal();
  });
}
