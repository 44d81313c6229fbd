// Blank infilling: a text with blanks, and the same text with what the model puts there.

import { getJson } from "./api.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";
import { models } from "./models.js";
import { sampling } from "./settings.js";
import { Work } from "./work.js";

const BLANK = /(\[(?:MASK|sMASK|gMASK)\])/;
const EXAMPLES = ["fill_1", "fill_2", "fill_3"];
const KINDS = ["MASK", "sMASK", "gMASK"];
const REVEAL = 350;

/** The text with its first blanks filled; the next one pulses while `busy`. */
function shown(pieces, spans, busy) {
  let blank = 0;
  return pieces.map((piece) => {
    if (!BLANK.test(piece)) return piece;
    const span = spans[blank];
    blank += 1;
    if (span !== undefined) return h("mark", { class: "filled" }, span);
    return h("span", {
      class: busy && blank === spans.length + 1 ? "blank active" : "blank",
      role: "img",
      label: "blank",
    });
  });
}

export function fillPanel() {
  const area = h("textarea", { id: "fill-text", rows: 5, label: "fill_text", hint: "fill_hint" });
  area.removeAttribute("title");
  const view = h("div", { class: "filled-text", id: "fill-result" });
  const draw = (spans, busy) => view.replaceChildren(...shown(area.value.split(BLANK), spans, busy));

  const insert = (kind) => {
    area.setRangeText(`[${kind}]`, area.selectionStart, area.selectionEnd, "end");
    area.focus();
    area.dispatchEvent(new Event("input"));
  };
  const kinds = KINDS.map((kind) => h("button", {
    type: "button", class: "pill", t: `blank_${kind}`, on: { click: () => insert(kind) },
  }));
  const example = (key) => h("button", {
    type: "button", class: "pill", t: key, on: { click: () => { area.value = t(key); work.submit(); } },
  });

  const work = new Work({
    name: "fill",
    button: "fill_run",
    fields: [area, h("div", { class: "controls" }, h("div", { class: "row" }, ...kinds))],
    examples: EXAMPLES.map(example),
    view,
    ready: () => BLANK.test(area.value),
    text: () => view.textContent,
    async run({ signal, begin }) {
      begin();
      draw([], true);
      const { max_tokens: most = 64, ...options } = sampling();
      const begun = performance.now();
      const { spans, usage } = await getJson("v1/fill", {
        body: { model: await models.known(), text: area.value, max_tokens: most, ...options },
        signal,
      });
      const seconds = (performance.now() - begun) / 1000;
      for (let i = 1; i <= spans.length; i += 1) {
        draw(spans.slice(0, i), i < spans.length);
        if (i < spans.length) await new Promise((resolve) => setTimeout(resolve, REVEAL));
      }
      return `${t("tokens", { n: usage.completion_tokens })} · ${t("seconds", { n: seconds.toFixed(1) })}`;
    },
  });
  return work.element;
}
