// Summaries, translations and texts in a form: what is asked of the service, and how it is shown.

import { events, getJson, ServiceError } from "./api.js";
import { h, toast } from "./dom.js";
import { remark, t } from "./i18n.js";
import { renderInto } from "./markdown/render.js";
import { models } from "./models.js";
import { supportPanel } from "./support.js";
import { Work } from "./work.js";

const FORMS = ["jueju5", "jueju7", "lvshi5", "lvshi7", "couplet", "story", "news", "advertisement", "email"];
const DRAFTS = ["continue", "rewrite", "fill"];
const TONES = ["formal", "concise", "friendly", "lively", "polite"];
const SHORT = new Set(["verse", "couplet", "rewrite", "fill"]);  // whose length is not for the reader to say
const FORMATS = { md: "markdown", srt: "srt", vtt: "vtt", json: "json", po: "po" };
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

/** A button that reads a text file into a field; `onName` hears its name. */
function fileButton(area, accept, onName = () => {}) {
  const input = h("input", { type: "file", accept, class: "visually-hidden", tabindex: "-1", label: "open_file" });
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (file && file.size <= MOST_FILE) {
      area.value = await file.text();
      onName(file.name);
      area.dispatchEvent(new Event("input", { bubbles: true }));
    } else if (file) toast("file_too_large");
    input.value = "";
  });
  return [h("button", { type: "button", class: "pill", t: "open_file", on: { click: () => input.click() } }), input];
}

/** The result of an endpoint that tells how far it is; `onProgress` hears (done, all). */
async function result(path, body, signal, onProgress) {
  let found;
  const given = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined));
  for await (const { data } of events(path, { body: { ...given, stream: true }, signal })) {
    if (data.object === "progress") onProgress(data.done, data.total);
    else found = data;
  }
  if (!found) throw new ServiceError("lost");
  return found;
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
    async run({ signal, begin, stats }) {
      shown = "";
      begin();
      view.replaceChildren();
      view.rendered = [];
      view.classList.add("waiting");
      const begun = performance.now();
      try {
        const answer = await result(`v1/${name}`, { model: await models.known(), ...ask(area.value) }, signal,
          (done, all) => stats(t("progress", { done, all })));
        shown = answer.text;
        show(answer, view);
        const seconds = t("seconds", { n: ((performance.now() - begun) / 1000).toFixed(1) });
        return [note(answer), ...(answer.notes ?? []).map(remark), seconds].filter(Boolean).join(" · ");
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
    controls: [form.field, mode.field, length.field, ...fileButton(area, ".txt,.md,text/*")],
    examples: ["summarize_1"],
    ask: (text) => ({ text, form: form.select.value, mode: mode.select.value, length: length.value }),
    show: (answer, view) => renderInto(view, answer.text),
    note: (answer) => (answer.mode ? t(`mode_${answer.mode}`) : ""),
  });
}

function translatePanel() {
  const area = textArea("translate", 8);
  const target = choice("translate", "target", [["", "target_auto"], ["en", "target_en"], ["zh", "target_zh"], ["lzh", "target_lzh"]]);
  const format = choice("translate", "format", ["text", ...Object.values(FORMATS)].map((name) => [name, `format_${name}`]));
  const named = (name) => { format.select.value = FORMATS[name.split(".").at(-1).toLowerCase()] ?? "text"; };
  return workPanel({
    name: "translate",
    area,
    controls: [target.field, format.field, ...fileButton(area, ".txt,.md,.srt,.vtt,.json,.po,text/*", named)],
    examples: ["translate_1", "translate_2"],
    ask: (text) => ({ text, target: target.select.value || undefined, format: format.select.value }),
    show: (answer, view) => view.replaceChildren(h("div", { class: "plain" }, answer.text)),
    note: (answer) => (answer.origins?.source ? t("untranslated", { n: answer.origins.source }) : ""),
  });
}

function writePanel() {
  const area = textArea("write", 4);
  const form = choice("write", "form", [...FORMS, ...DRAFTS].map((name) => [name, `write_${name}`]));
  const tone = choice("write", "tone", TONES.map((name) => [name, `tone_${name}`]));
  const length = lengthField("write");
  const kinds = new Map(FORMS.map((name) => [name, /^(jueju|lvshi)/.test(name) ? "verse" : name]));
  const kind = () => kinds.get(form.select.value) ?? form.select.value;
  const update = () => {
    length.field.hidden = SHORT.has(kind());
    tone.field.hidden = kind() !== "rewrite";
  };
  form.select.addEventListener("change", update);
  update();
  // Forms that the operator added are TOML files on the service's side.
  document.addEventListener("tabs", async () => {
    const { data } = await getJson("v1/write/forms").catch(() => ({ data: [] }));
    for (const { name, title, kind: what } of data) {
      if (what === "rewrite" || kinds.has(name)) continue;
      kinds.set(name, what);
      form.select.append(h("option", { value: name }, title));
    }
  });
  return workPanel({
    name: "write",
    area,
    controls: [form.field, tone.field, length.field],
    examples: ["write_1", "write_2"],
    ask: (topic) => ({
      form: form.select.value,
      topic,
      length: length.field.hidden ? undefined : length.value,
      tone: tone.field.hidden ? undefined : tone.select.value,
    }),
    show: (answer, view) => view.replaceChildren(
      h("div", { class: kind() === "verse" ? "plain verse" : "plain" }, answer.text)),
  });
}

/** The applications with the endpoint that each needs. */
export const APPLICATIONS = [
  { name: "support", path: "v1/support", panel: supportPanel },
  { name: "summarize", path: "v1/summarize", panel: summarizePanel },
  { name: "translate", path: "v1/translate", panel: translatePanel },
  { name: "write", path: "v1/write", panel: writePanel },
];
