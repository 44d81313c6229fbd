// One message on the page: its text, what may be done with it, and how it came about.

import { copyButton, h, iconButton } from "./dom.js";
import { language, t } from "./i18n.js";
import { renderInto } from "./markdown/render.js";
import { models } from "./models.js";

const NOTES = {
  stopped: "note_stopped",
  interrupted: "note_interrupted",
  forgets: "note_forgets",
  length: "note_length",
  content_filter: "note_filter",
};
const ERRORS = { lost: "error_lost", key: "error_key", busy: "error_busy", missing: "error_missing" };

/** A message's element. `actions`: retry(message), forget(message), edit(message, text),
 * turn(message, step). */
export class MessageView {
  constructor(message, actions) {
    this.actions = actions;
    this.element = h("article", { class: `message ${message.role}`, data: { id: message.id } });
    this.body = h("div", { class: message.role === "user" ? "bubble" : "prose answer" });
    this.thinking = h("details", { class: "aside thinking", hidden: true },
      h("summary", { t: "thinking" }), h("div", { class: "prose" }));
    this.calls = h("div", { class: "calls" });
    this.note = h("p", { class: "note", hidden: true });
    this.foot = h("footer", { class: "message-foot" });
    this.element.append(this.thinking, this.body, this.calls, this.note, this.foot);
    this.update(message, { index: 0, count: 1 });
  }

  /** Shows the message as it is now; `state` may differ from the stored one. */
  update(message, place, state = message.state) {
    this.message = message;
    this.place = place;
    this.state = state;
    this.element.dataset.state = state;
    const speaker = message.role === "user" ? t("you") : message.model || t("assistant");
    this.element.setAttribute("aria-label", speaker);
    if (message.role === "user") {
      if (!this.editing) this.body.textContent = message.content;
    } else this.updateReply();
    const busy = state === "streaming";
    this.element.setAttribute("aria-busy", String(busy));
    this.updateNote();
    this.updateFoot(busy);
  }

  /** Shows more of a reply that is being written. */
  updateReply() {
    const { message, state } = this;
    renderInto(this.body, message.content);
    const waiting = state === "streaming" && !message.content && !message.reasoning;
    this.body.classList.toggle("waiting", waiting);
    this.body.classList.toggle("writing", state === "streaming" && Boolean(message.content));
    this.thinking.hidden = !message.reasoning;
    if (message.reasoning) renderInto(this.thinking.lastElementChild, message.reasoning);
    message.calls.forEach((call, i) => {
      if (!call) return;
      const shown = this.calls.children[i] ?? this.calls.appendChild(
        h("details", { class: "aside" }, h("summary"), h("pre", { tabindex: "0" })),
      );
      shown.firstElementChild.textContent = t("calls", { name: call.name });
      shown.lastElementChild.textContent = indented(call.arguments);
    });
  }

  updateNote() {
    const { message, state } = this;
    const error = state === "failed" ? message.error ?? { kind: "failed" } : null;
    const finish = message.finish === "length" || message.finish === "content_filter" ? message.finish : "";
    const keys = [state, finish, message.forgets ? "forgets" : ""].map((name) => NOTES[name]).filter(Boolean);
    this.note.hidden = !error && !keys.length;
    this.note.classList.toggle("error", Boolean(error) || state === "interrupted");
    if (this.note.hidden) return;
    const wait = error?.wait ? t("error_wait", { n: error.wait }) : "";
    const text = error
      ? [t(ERRORS[error.kind] ?? "error_failed"), error.text, wait].filter(Boolean).join(" ")
      : keys.map((key) => t(key)).join(" ");
    this.note.replaceChildren(h("span", {}, text));
    if (error?.code === "context_length_exceeded" && !message.forgets) {
      this.note.append(h("button", {
        type: "button", class: "pill", t: "forget", on: { click: () => this.actions.forget(this.message) },
      }));
    } else if (error || state === "interrupted") {
      this.note.append(h("button", {
        type: "button",
        class: "pill retry-now",
        t: "retry",
        on: { click: () => this.actions.retry(this.message) },
      }));
    }
  }

  updateFoot(busy) {
    const { message } = this;
    const stats = h("span", { class: "stats" }, statsText(message));
    const parts = this.versions();
    if (!busy) {
      parts.push(copyButton(() => this.message.content));
      if (message.role === "user") parts.push(iconButton("edit", "edit", () => this.edit()));
      else parts.push(iconButton("retry", "retry", () => this.actions.retry(this.message)));
    }
    // Only rebuilt when it changes, so that a button keeps the focus.
    const shape = JSON.stringify([busy, this.place, statsText(message), language()]);
    if (shape === this.footShape) return;
    this.footShape = shape;
    this.foot.replaceChildren(...parts, stats);
  }

  versions() {
    const { index, count } = this.place;
    if (count < 2) return [];
    const turn = (step) => () => this.actions.turn(this.message, step);
    return [h("span", { class: "versions" },
      iconButton("left", "earlier_version", turn(-1), { disabled: index === 0 }),
      h("span", {}, `${index + 1}/${count}`),
      iconButton("right", "later_version", turn(1), { disabled: index === count - 1 }))];
  }

  /** Turns a question into a field; sending it asks again from here, the old one is kept. */
  edit() {
    if (this.editing) return;
    this.editing = true;
    const area = h("textarea", { label: "edit", rows: 3 });
    area.value = this.message.content;
    const end = () => {
      this.editing = false;
      this.element.classList.remove("editing");
      this.body.textContent = this.message.content;
      this.foot.hidden = false;
      this.foot.querySelector("button:last-of-type")?.focus();
    };
    const send = () => {
      const text = area.value.trim();
      end();
      if (text) this.actions.edit(this.message, text);
    };
    area.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Escape") {
        event.stopPropagation();
        end();
      } else if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        send();
      }
    });
    this.element.classList.add("editing");
    this.foot.hidden = true;
    this.body.replaceChildren(area, h("div", { class: "row" },
      h("button", { type: "button", class: "pill", t: "cancel", on: { click: end } }),
      h("button", { type: "button", class: "pill primary", t: "send", on: { click: send } })));
    area.focus();
  }
}

/** The model where there are several, time to the first token, tokens and tokens a second, as far as they are known. */
export function statsText({ stats, model }) {
  const parts = models.names.length > 1 && model ? [model] : [];
  if (!stats) return parts.join("");
  if (stats.rate) parts.push(t("rate", { n: stats.rate.toFixed(stats.rate < 10 ? 1 : 0) }));
  if (stats.tokens) parts.push(t("tokens", { n: stats.tokens }));
  parts.push(t("first_token", { n: (stats.first / 1000).toFixed(2) }));
  return parts.join(" · ");
}

function indented(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;  // still being written
  }
}
