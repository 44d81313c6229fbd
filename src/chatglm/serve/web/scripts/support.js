// Customer service: questions to a knowledge base, answers with their sources, or a person.

import { getJson } from "./api.js";
import { isComposing } from "./composer.js";
import { connection } from "./connection.js";
import { announce, h, icon, iconButton } from "./dom.js";
import { t } from "./i18n.js";
import { renderInto } from "./markdown/render.js";

const ERRORS = { lost: "error_lost", key: "error_key", busy: "error_busy", missing: "error_missing" };

function sources(citations) {
  return h("ol", { class: "sources" }, ...citations.map(({ number, title, source, place, quote }) => h("li", { value: number },
    h("details", {}, h("summary", {}, [title, place || source].filter(Boolean).join(" · ")), h("blockquote", {}, quote)))));
}

/** The panel: a talk with its field below. */
export function supportPanel() {
  const talk = new Talk();
  return talk.element;
}

class Talk {
  constructor() {
    this.session = undefined;
    this.log = h("div", { class: "log", role: "log", "aria-live": "off", label: "tab_support" });
    this.log.removeAttribute("title");
    this.lead = h("div", { class: "welcome" }, h("h2", { t: "support_welcome" }), h("p", { t: "support_lead" }),
      h("div", { class: "suggestions" }, ...["support_1", "support_2"].map((key) => h("button", {
        type: "button", class: "suggestion", t: key, on: { click: () => this.ask(t(key)) },
      }))));
    this.area = h("textarea", { id: "support-text", rows: 1, label: "support_text", hint: "support_text", autocomplete: "off" });
    this.area.removeAttribute("title");
    this.button = h("button", { type: "submit", class: "send-button", label: "send" }, icon("send"));
    this.form = h("form", { class: "composer" }, this.area, this.button);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
      event.preventDefault();
      this.send();
    });
    this.area.addEventListener("input", () => this.update());
    this.scroller = h("div", { class: "scroller" }, this.lead, this.log);
    this.element = [this.scroller, h("div", { class: "dock" }, this.form,
      h("p", { class: "fineprint" }, h("button", { type: "button", class: "link-button", t: "support_new", on: { click: () => this.reset() } })))];
    this.update();
  }

  update() {
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight}px`;
    this.button.disabled = this.busy || !this.area.value.trim();
  }

  reset() {
    this.session = undefined;
    this.log.replaceChildren();
    this.lead.hidden = false;
    this.area.focus();
  }

  send() {
    const question = this.area.value.trim();
    if (!question || this.busy) return;
    this.area.value = "";
    this.ask(question);
  }

  async ask(question) {
    if (this.busy) return;
    this.busy = true;
    this.lead.hidden = true;
    this.update();
    const answer = h("div", { class: "prose answer waiting" });
    const message = h("article", { class: "message assistant", "aria-busy": "true", "aria-label": t("assistant") }, answer);
    this.log.append(h("article", { class: "message user", "aria-label": t("you") }, h("div", { class: "bubble" }, question)), message);
    this.toEnd();
    try {
      const reply = await getJson("v1/support", { body: { question, session: this.session } });
      this.session = reply.session;
      this.show(reply, message, answer);
    } catch (error) {
      this.fail(error, message, question);
    } finally {
      answer.classList.remove("waiting");
      message.setAttribute("aria-busy", "false");
      this.busy = false;
      this.update();
      this.toEnd();
    }
  }

  show(reply, message, answer) {
    renderInto(answer, reply.text || t("support_with_person"));
    announce(reply.text || t("support_with_person"));
    message.dataset.action = reply.action;
    if (reply.citations?.length) message.append(sources(reply.citations));
    if (reply.action === "handover") message.append(h("p", { class: "note" }, h("span", { t: "support_handover" })));
    if (reply.suggestions?.length) {
      message.append(h("div", { class: "examples" }, h("span", { class: "quiet", t: "support_near" }),
        ...reply.suggestions.map((text) => h("button", { type: "button", class: "pill", on: { click: () => this.ask(text) } }, text))));
    }
    if (reply.action === "answer") message.append(this.thumbs(reply));
  }

  thumbs({ session, turn }) {
    const rate = (good) => async () => {
      try {
        await getJson("v1/support/feedback", { body: { session, turn, good } });
        foot.replaceChildren(h("span", { class: "stats", t: "support_thanks" }));
        announce(t("support_thanks"));
      } catch (error) {
        if (error.kind === "lost") connection.lost();
        foot.replaceChildren(h("span", { class: "stats", t: "error_failed" }));
      }
    };
    const foot = h("footer", { class: "message-foot" }, iconButton("up", "good_answer", rate(true)),
      iconButton("dislike", "bad_answer", rate(false)));
    return foot;
  }

  fail(error, message, question) {
    if (error.kind === "lost") connection.lost();
    if (error.kind === "key") document.dispatchEvent(new Event("key-wanted"));
    message.append(h("p", { class: "note error" },
      h("span", {}, `${t(ERRORS[error.kind] ?? "error_failed")}${error.message ? ` ${error.message}` : ""}`),
      h("button", { type: "button", class: "pill", t: "retry", on: { click: () => {
        message.previousElementSibling.remove();
        message.remove();
        this.ask(question);
      } } })));
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }
}
