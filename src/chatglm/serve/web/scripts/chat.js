// The conversation that is shown: what was said, and what is being written.

import { Composer } from "./composer.js";
import { h, iconButton } from "./dom.js";
import { ALIVE, Generation } from "./generation.js";
import { t } from "./i18n.js";
import { MessageView } from "./message.js";
import { models } from "./models.js";
import { sampling, settings } from "./settings.js";
import { Speaker } from "./speaker.js";
import { newConversation, newId } from "./store.js";
import { asMessages, Tree } from "./tree.js";

const SUGGESTIONS = ["suggest_1", "suggest_2", "suggest_3", "suggest_4"];

export class Chat {
  constructor({ store, root, onOpen }) {
    this.store = store;
    this.onOpen = onOpen;
    this.generations = new Map();  // message id → the reply that is being written
    this.views = new Map();
    this.composer = new Composer({ onSend: (text) => this.send(text), onStop: () => this.stop() });
    this.composer.onDraft = (text) => this.keepDraft(text);
    this.log = h("div", { class: "log", id: "log", role: "log", "aria-live": "off", label: "conversation" });
    this.log.removeAttribute("title");
    this.welcome = this.makeWelcome();
    this.scroller = h("div", { class: "scroller" }, this.welcome, this.log);
    this.toEnd = iconButton("down", "to_end", () => this.scrollToEnd(), { class: "icon-button to-end", hidden: true });
    root.append(this.scroller, h("div", { class: "dock" }, this.toEnd, this.composer.element,
      h("p", { class: "fineprint", t: "fineprint" })));
    this.scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    store.onChange((id) => this.changedElsewhere(id));
    document.addEventListener("language", () => this.show());
    window.addEventListener("pagehide", () => store.saveAtOnce(
      [...this.generations.values()].map(({ message }) => ({ ...message, state: "interrupted" })),
    ));
    this.reset();
  }

  makeWelcome() {
    const ask = (key) => h("button", {
      type: "button", class: "suggestion", t: key, on: { click: () => this.send(t(key)) },
    });
    return h("div", { class: "welcome" }, h("h2", { t: "welcome" }), h("p", { t: "welcome_more" }),
      h("div", { class: "suggestions" }, ...SUGGESTIONS.map(ask)));
  }

  reset() {
    this.conversation = null;
    this.tree = new Tree([]);
    this.leaf = null;
    this.views.clear();
    this.log.replaceChildren();
    this.show();
    this.composer.text = this.draft();
  }

  /** Shows a conversation, or a new one; false where there is none of this id. */
  async open(id) {
    this.wanted = id;
    if (id === (this.conversation?.id ?? null)) return true;
    const found = id === null ? null : await this.store.open(id);
    if (this.wanted !== id) return true;  // another was opened meanwhile
    this.reset();
    if (id !== null && !found) return false;
    if (found) {
      this.conversation = found.conversation;
      this.tree = new Tree(found.messages.map((message) => this.own(message)));
      this.leaf = this.tree.byId.has(found.conversation.leaf)
        ? found.conversation.leaf : found.messages.at(-1)?.id ?? null;
    }
    this.composer.text = this.draft();
    this.show();
    this.scrollToEnd();
    return true;
  }

  // While this tab writes a message, its copy is the newest.
  own(message) {
    return this.generations.get(message.id)?.message ?? message;
  }

  // What is being typed outlives a reload.
  draftName() {
    return `chatglm.draft.${this.conversation?.id ?? "new"}`;
  }

  draft() {
    try {
      return sessionStorage.getItem(this.draftName()) ?? "";
    } catch {
      return "";
    }
  }

  keepDraft(text) {
    try {
      if (text) sessionStorage.setItem(this.draftName(), text);
      else sessionStorage.removeItem(this.draftName());
    } catch {
      // No storage, no draft.
    }
  }

  get running() {
    return [...this.generations.values()].find(
      ({ message }) => message.conversation === this.conversation?.id,
    );
  }

  // What is said shows at once and is kept in the order in which it was said: the reader may go on to
  // another conversation before it is kept.
  async send(text) {
    if (this.running) return;
    if (!this.conversation) {
      const title = text.replace(/\s+/g, " ").slice(0, 40);
      this.conversation = newConversation({ title, system: settings.get("system") ?? "" });
      const kept = this.store.add(this.conversation);
      this.onOpen(this.conversation.id);
      await Promise.all([kept, this.ask(text, this.leaf)]);
    } else await this.ask(text, this.leaf);
  }

  /** Adds a question after `parent`, and the reply to it. */
  async ask(text, parent) {
    const question = this.message("user", parent, { content: text, state: "done" });
    this.tree.add(question);
    const kept = this.store.saveMessage(question);
    await Promise.all([kept, this.reply(question.id)]);
  }

  message(role, parent, fields) {
    return {
      id: newId(),
      conversation: this.conversation.id,
      parent,
      role,
      content: "",
      reasoning: "",
      calls: [],
      created: Date.now(),
      ...fields,
    };
  }

  async reply(parent, forgets = false) {
    const message = this.message("assistant", parent, { state: "streaming", model: models.chosen, forgets });
    const { conversation } = this;
    this.tree.add(message);
    this.leaf = message.id;
    const speaker = new Speaker();
    const generation = new Generation({
      store: this.store,
      message,
      request: {
        messages: asMessages(conversation.system, [...this.tree.path(parent), { forgets }]),
        options: sampling(),
      },
      onUpdate: () => {
        speaker.hear(message.content);
        this.drawSoon(message);
      },
      onEnd: () => {
        this.generations.delete(message.id);
        speaker.hear(message.content, { last: true });
        if (this.conversation?.id === conversation.id) this.show();
        document.dispatchEvent(new Event("conversations"));
      },
    });
    this.generations.set(message.id, generation);
    this.stick = true;
    this.show();
    this.scrollToEnd();
    const kept = this.store.update(conversation.id, { leaf: message.id, updated: Date.now() });
    generation.run();
    await kept;
    document.dispatchEvent(new Event("conversations"));
  }

  stop() {
    this.running?.stop();
    this.composer.focus();
  }

  /** Asks again; the earlier answer stays as a version. */
  async retry(message) {
    if (!this.running) await this.reply(message.parent, message.forgets);
  }

  /** Asks again with the question alone, where the conversation has become too long for the model. */
  async forget(message) {
    if (!this.running) await this.reply(message.parent, true);
  }

  async edit(message, text) {
    if (!this.running) await this.ask(text, message.parent);
  }

  async turn(message, step) {
    const siblings = this.tree.siblings(message);
    const other = siblings[siblings.indexOf(message.id) + step];
    if (!other) return;
    this.leaf = this.tree.end(other);
    this.show();
    await this.store.update(this.conversation.id, { leaf: this.leaf });
  }

  /** What another tab did to this conversation: new branches appear, and what continues ours is followed. */
  async changedElsewhere(id) {
    document.dispatchEvent(new Event("conversations"));
    if (id !== this.conversation?.id) return;
    const found = await this.store.open(id);
    if (id !== this.conversation?.id) return;
    if (!found) {
      this.onOpen(null);
      return;
    }
    this.conversation = found.conversation;
    this.tree = new Tree(found.messages.map((message) => this.own(message)));
    for (const { message } of this.generations.values()) {
      if (message.conversation === id) this.tree.add(message);
    }
    // Who is writing here answers what is shown here.
    const theirs = this.tree.path(found.conversation.leaf);
    const goesOn = this.leaf === null || theirs.some((message) => message.id === this.leaf);
    if (goesOn && !this.composer.text) this.leaf = found.conversation.leaf;
    this.show();
  }

  /** Shows the branch of now. */
  show() {
    const path = this.tree.path(this.leaf);
    this.welcome.hidden = path.length > 0;
    const shown = new Set(path.map((message) => message.id));
    for (const [id, view] of this.views) {
      if (!shown.has(id)) {
        view.element.remove();
        this.views.delete(id);
      }
    }
    path.forEach((message, i) => {
      let view = this.views.get(message.id);
      if (!view) {
        view = new MessageView(message, this);
        this.views.set(message.id, view);
      }
      if (this.log.children[i] !== view.element) this.log.insertBefore(view.element, this.log.children[i] ?? null);
      view.update(message, this.tree.place(message), this.stateOf(message));
    });
    this.composer.setBusy(Boolean(this.running));
    this.scrolled();
  }

  stateOf(message) {
    if (this.generations.has(message.id)) return "streaming";  // also while its end is being kept
    if (message.state !== "streaming") return message.state;
    const left = message.saved + ALIVE - Date.now();
    if (left <= 0) return "interrupted";
    clearTimeout(this.recheck);  // another tab may still be writing it
    this.recheck = setTimeout(() => this.show(), left + 100);
    return "streaming";
  }

  drawSoon(message) {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = null;
      const view = this.views.get(message.id);
      if (!view) return;
      view.updateReply();
      if (this.stick) this.scrollToEnd();
      else this.scrolled();
    });
  }

  scrolled() {
    const left = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight;
    this.stick = left < 80;
    this.toEnd.hidden = left < 160;
  }

  scrollToEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.toEnd.hidden = true;
  }

  /** The system prompt of this conversation, or of the next new one. */
  get system() {
    return this.conversation ? this.conversation.system : settings.get("system") ?? "";
  }

  async setSystem(text) {
    if (!this.conversation) settings.set("system", text || undefined);
    else {
      this.conversation.system = text;
      await this.store.update(this.conversation.id, { system: text });
    }
  }
}
