// Customer service: questions to a knowledge base, answers with their sources, or a person.

import { getJson } from "./api.js";
import { isComposing } from "./composer.js";
import { connection } from "./connection.js";
import { announce, h, icon, iconButton, toast } from "./dom.js";
import { t } from "./i18n.js";
import { renderInto } from "./markdown/render.js";
import { models } from "./models.js";

const POLL = 3000;
const ERRORS = { lost: "error_lost", key: "error_key", busy: "error_busy", missing: "error_missing" };

const isShown = (node) => node.offsetParent !== null;

function sources(citations) {
  return h("ol", { class: "sources" }, ...citations.map(({ number, title, source, place, quote }) => h("li", { value: number },
    h("details", {}, h("summary", {}, [title, place || source].filter(Boolean).join(" · ")), h("blockquote", {}, quote)))));
}

/** The panel: a base to choose, the customer's talk, and the desk of those who help. */
export function supportPanel() {
  const base = h("select", { id: "support-base" });
  const talk = new Talk(base);
  const desk = new Desk(base);
  const switchTo = (atDesk) => {
    talk.element.hidden = atDesk;
    desk.show(atDesk);
    customer.setAttribute("aria-pressed", String(!atDesk));
    person.setAttribute("aria-pressed", String(atDesk));
  };
  const side = (key, atDesk) => h("button", { type: "button", class: "pill", t: key, on: { click: () => switchTo(atDesk) } });
  const [customer, person] = [side("support_customer", false), side("support_desk", true)];
  const bar = h("div", { class: "support-bar" },
    h("label", { for: "support-base", t: "support_base" }), base, h("span", { class: "push row" }, customer, person));
  const none = h("div", { class: "welcome", hidden: true }, h("h2", { t: "support_none" }), h("p", { t: "support_none_more" }),
    h("pre", {}, "chatglm support demo"));
  base.addEventListener("change", () => {
    talk.reset();
    desk.refresh();
  });
  document.addEventListener("tabs", async ({ detail: paths }) => {
    if (!paths.has("/v1/support")) return;
    const { data } = await getJson("v1/support/bases").catch(() => ({ data: [] }));
    const chosen = base.value;
    base.replaceChildren(...data.map(({ id }) => h("option", { value: id }, id)));
    if (data.some(({ id }) => id === chosen)) base.value = chosen;
    none.hidden = data.length > 0;
    bar.hidden = data.length === 0;
    if (data.length === 0) talk.element.hidden = true;
    else switchTo(false);
  });
  switchTo(false);
  return [bar, none, talk.element, desk.element];
}

class Talk {
  constructor(base) {
    this.base = base;
    this.session = undefined;
    this.heard = 0;  // the last turn that is shown
    this.log = h("div", { class: "log", role: "log", "aria-live": "off", label: "tab_support" });
    this.log.removeAttribute("title");
    this.lead = h("div", { class: "welcome" }, h("h2", { t: "support_welcome" }), h("p", { t: "support_lead" }));
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
    const again = h("button", { type: "button", class: "link-button", t: "support_new", on: { click: () => this.reset() } });
    this.element = h("div", { class: "talk" }, this.scroller,
      h("div", { class: "dock" }, this.form, h("p", { class: "fineprint" }, again)));
    this.update();
  }

  update() {
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight}px`;
    this.button.disabled = this.busy || !this.area.value.trim();
  }

  reset() {
    clearInterval(this.listening);
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
      const reply = await getJson("v1/support", {
        body: { model: await models.known(), base: this.base.value, question, session: this.session },
      });
      this.session = reply.session;
      this.heard = Math.max(this.heard, reply.turn);
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
    if (reply.action === "handover" || reply.action === "person") this.listen();
    if (reply.suggestions?.length) {
      message.append(h("div", { class: "examples" }, h("span", { class: "quiet", t: "support_near" }),
        ...reply.suggestions.map((text) => h("button", { type: "button", class: "pill", on: { click: () => this.ask(text) } }, text))));
    }
    if (reply.action === "answer") message.append(this.thumbs(reply));
  }

  /** Waits for what a person says. */
  listen() {
    clearInterval(this.listening);
    this.listening = setInterval(async () => {
      if (!isShown(this.element)) return;
      const where = new URLSearchParams({ base: this.base.value, session: this.session, after: this.heard });
      const { data } = await getJson(`v1/support/turns?${where}`).catch(() => ({ data: [] }));
      for (const { turn, role, text } of data) {
        if (turn <= this.heard) continue;
        this.heard = turn;
        if (role !== "agent") continue;
        const said = h("div", { class: "prose answer" });
        renderInto(said, text);
        this.log.append(h("article", { class: "message assistant", data: { action: "agent" }, "aria-label": t("support_person") },
          h("p", { class: "quiet", t: "support_person" }), said));
        announce(text);
        this.toEnd();
      }
    }, POLL);
  }

  thumbs({ session, turn }) {
    const rate = (value) => async () => {
      try {
        await getJson("v1/support/feedback", { body: { base: this.base.value, session, turn, value } });
        foot.replaceChildren(h("span", { class: "stats", t: "support_thanks" }));
        announce(t("support_thanks"));
      } catch (error) {
        if (error.kind === "lost") connection.lost();
        foot.replaceChildren(h("span", { class: "stats", t: "error_failed" }));
      }
    };
    const foot = h("footer", { class: "message-foot" }, iconButton("up", "good_answer", rate(1)),
      iconButton("dislike", "bad_answer", rate(-1)));
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

/** The desk: talks that wait for a person, with what was said, and a field to answer. */
class Desk {
  constructor(base) {
    this.base = base;
    this.list = h("div", { class: "desk-list" });
    this.element = h("div", { class: "work", hidden: true }, h("div", { class: "work-inner" },
      h("h2", { t: "support_desk" }), h("p", { class: "lead", t: "desk_lead" }), this.list));
    setInterval(() => isShown(this.element) && this.refresh(), POLL);
  }

  show(shown) {
    this.element.hidden = !shown;
    if (shown) this.refresh();
  }

  async refresh() {
    if (!this.base.value) return;
    let data;
    try {
      ({ data } = await getJson(`v1/support/handovers?${new URLSearchParams({ base: this.base.value })}`));
    } catch (error) {
      if (error.kind === "lost") connection.lost();
      return;
    }
    const known = new Map([...this.list.children].map((card) => [card.dataset.key, card]));
    const cards = data.map((one) => known.get(`${one.id}`) ?? this.card(one));
    const none = h("p", { class: "quiet", t: "desk_empty" });
    if (!cards.length) this.list.replaceChildren(none);
    else if (cards.length !== this.list.children.length || cards.some((card, i) => card !== this.list.children[i])) {
      this.list.replaceChildren(...cards);
    }
    data.forEach((one, i) => this.follow(one, cards[i].querySelector(".said")));
  }

  /** Shows what was said since a talk was handed over. */
  async follow({ session, opened }, place) {
    const where = new URLSearchParams({ base: this.base.value, session });
    const { data } = await getJson(`v1/support/turns?${where}`).catch(() => ({ data: [] }));
    const lines = data.filter(({ at }) => at > opened).map(({ role, text }) => `${t(`said_${role}`)}：${text}`);
    if (lines.length) place.textContent = lines.join("\n");
  }

  card({ id, question, summary, reason }) {
    const area = h("textarea", { rows: 2, label: "desk_answer", hint: "desk_answer" });
    area.removeAttribute("title");
    const act = (more) => async () => {
      const text = area.value.trim();
      if (!text && !more.close) return;
      try {
        await getJson(`v1/support/handovers/${id}`, {
          body: { base: this.base.value, ...(text ? { text } : {}), ...more },
        });
        area.value = "";
        toast(more.close ? "desk_closed" : "desk_sent");
      } catch (error) {
        if (error.kind === "lost") connection.lost();
        toast("error_failed");
      }
      this.refresh();
    };
    return h("article", { class: "result desk-card", data: { key: id } }, h("div", { class: "result-body" },
      h("h3", {}, question), h("p", { class: "quiet", t: `reason_${reason}` }), h("pre", { class: "plain" }, summary),
      h("pre", { class: "plain said", "aria-live": "polite" }), area,
      h("div", { class: "row end" },
        h("button", { type: "button", class: "pill", t: "desk_close", on: { click: act({ close: true }) } }),
        h("button", { type: "button", class: "pill primary", t: "desk_send", on: { click: act({}) } }))));
  }
}
