// Summaries, translations and texts in a form: what is asked of the service, and how it is shown.

import { getJson } from "./api.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";
import { renderInto } from "./markdown/render.js";
import { models } from "./models.js";
import { supportPanel } from "./support.js";
import { Work } from "./work.js";

const FORMS = ["jueju5", "jueju7", "lvshi5", "lvshi7", "couplet", "story", "news", "advertisement", "email"];
const VERSES = new Set(["jueju5", "jueju7", "lvshi5", "lvshi7", "couplet"]);
const MOST_FILE = 8 << 20;

/** A list to choose from; `options` are values with the keys of their words. */
function choice(name, label, options) {
  const id = `${name}-${label}`;
  const select = h("select", { id }, ...options.map(([value, key]) => h("option", { value, t: key })));
  return { select, field: h("div", { class: "field" }, h("label", { for: id, t: `ask_${label}` }), select) };
}

function lengthField(name) {
  const id = `${name}-length`;
  const input = h("input", { type: "number", id, min: 1, max: 20000, hint: "default", inputmode: "numeric" });
  const field = h("div", { class: "field narrow" }, h("label", { for: id, t: "ask_length" }), input);
  return { input, field, get value() { return input.value ? Math.round(Number(input.value)) : undefined; } };
}

function textArea(name, rows = 7) {
  const area = h("textarea", { id: `${name}-text`, rows, label: `${name}_text`, hint: `${name}_text` });
  area.removeAttribute("title");
  return area;
}

/** A button that reads a text file into a field. */
function fileButton(area) {
  const input = h("input", { type: "file", accept: ".txt,.md,.srt,.vtt,text/*", class: "visually-hidden", tabindex: "-1", label: "open_file" });
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (file && file.size <= MOST_FILE) {
      area.value = await file.text();
      area.dispatchEvent(new Event("input", { bubbles: true }));
    }
    input.value = "";
  });
  return [h("button", { type: "button", class: "pill", t: "open_file", on: { click: () => input.click() } }), input];
}

/** A panel whose work is one request; `ask()` gives its body, `show(answer, view)` its result. */
function workPanel({ name, area, controls, examples = [], ask, show, note = () => "" }) {
  const view = h("div", { class: "prose", id: `${name}-result` });
  let shown = "";
  const work = new Work({
    name,
    button: `${name}_run`,
    fields: [area, h("div", { class: "controls" }, ...controls)],
    examples: examples.map((key) => h("button", {
      type: "button", class: "pill", t: key,
      on: { click: () => { area.value = t(`${key}_text`); work.update(); work.submit(); } },
    })),
    view,
    ready: () => area.value.trim() !== "",
    text: () => shown,
    async run({ signal, begin }) {
      shown = "";
      begin();
      view.replaceChildren();
      view.rendered = [];
      view.classList.add("waiting");
      const begun = performance.now();
      try {
        const body = { model: models.chosen, ...ask(area.value) };
        const answer = await getJson(`v1/${name}`, { body: JSON.parse(JSON.stringify(body)), signal });
        shown = answer.text;
        show(answer, view);
        const seconds = t("seconds", { n: ((performance.now() - begun) / 1000).toFixed(1) });
        return [note(answer), ...(answer.notes ?? []).map(String), seconds].filter(Boolean).join(" · ");
      } finally {
        view.classList.remove("waiting");
      }
    },
  });
  return work.element;
}

function summarizePanel() {
  const area = textArea("summarize", 10);
  const form = choice("summarize", "form", [["paragraph", "form_paragraph"], ["headline", "form_headline"], ["points", "form_points"]]);
  const mode = choice("summarize", "mode", [["auto", "mode_auto"], ["extractive", "mode_extractive"], ["abstractive", "mode_abstractive"]]);
  const length = lengthField("summarize");
  return workPanel({
    name: "summarize",
    area,
    controls: [form.field, mode.field, length.field, ...fileButton(area)],
    examples: ["summarize_1"],
    ask: (text) => ({ text, form: form.select.value, mode: mode.select.value, length: length.value }),
    show: (answer, view) => renderInto(view, answer.text),
    note: (answer) => (answer.mode ? t(`mode_${answer.mode}`) : ""),
  });
}

function translatePanel() {
  const area = textArea("translate", 8);
  const target = choice("translate", "target", [["", "target_auto"], ["en", "target_en"], ["zh", "target_zh"]]);
  return workPanel({
    name: "translate",
    area,
    controls: [target.field, ...fileButton(area)],
    examples: ["translate_1", "translate_2"],
    ask: (text) => ({ text, target: target.select.value || undefined }),
    show: (answer, view) => view.replaceChildren(h("div", { class: "plain" }, answer.text)),
  });
}

function writePanel() {
  const area = textArea("write", 3);
  const form = choice("write", "form", FORMS.map((name) => [name, `write_${name}`]));
  const length = lengthField("write");
  const update = () => { length.field.hidden = VERSES.has(form.select.value); };
  form.select.addEventListener("change", update);
  update();
  return workPanel({
    name: "write",
    area,
    controls: [form.field, length.field],
    examples: ["write_1", "write_2"],
    ask: (topic) => ({ form: form.select.value, topic, length: length.field.hidden ? undefined : length.value }),
    show: (answer, view) => view.replaceChildren(
      h("div", { class: VERSES.has(form.select.value) ? "plain verse" : "plain" }, answer.text)),
  });
}

/** The applications with the endpoint that each needs. */
export const APPLICATIONS = [
  { name: "support", path: "v1/support", panel: supportPanel },
  { name: "summarize", path: "v1/summarize", panel: summarizePanel },
  { name: "translate", path: "v1/translate", panel: translatePanel },
  { name: "write", path: "v1/write", panel: writePanel },
];
