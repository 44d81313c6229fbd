// The conversations: found, renamed, exported, deleted.

import { isComposing } from "./composer.js";
import { h, iconButton, toast } from "./dom.js";
import { exportConversation } from "./export.js";
import { t } from "./i18n.js";
import { toggleMenu } from "./menu.js";

export class Sidebar {
  constructor({ store, root, onOpen, current }) {
    this.store = store;
    this.onOpen = onOpen;
    this.current = current;
    this.search = h("input", { type: "search", id: "search", hint: "search", label: "search", autocomplete: "off" });
    this.search.removeAttribute("title");
    this.list = h("ul", { class: "conversations", id: "conversations" });
    this.empty = h("p", { class: "quiet", t: "no_conversations" });
    root.append(
      h("button", { type: "button", class: "new-chat", id: "new-chat", on: { click: () => onOpen(null) } },
        h("span", { class: "plus", "aria-hidden": "true" }, "+"), h("span", { t: "new_chat" })),
      this.search,
      h("nav", { label: "conversations" }, this.list, this.empty),
    );
    root.querySelector("nav").removeAttribute("title");
    this.search.addEventListener("input", () => this.refresh());
    document.addEventListener("conversations", () => this.refreshSoon());
    document.addEventListener("language", () => this.refresh());
    this.refresh();
  }

  refreshSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), 30);
  }

  async refresh() {
    if (this.renaming) return;
    const wanted = this.search.value.trim();
    const [all, found] = await Promise.all([
      this.store.conversations(), wanted ? this.store.search(wanted) : null,
    ]);
    if (this.renaming) return;
    const shown = found ? all.filter(({ id }) => found.has(id)) : all;
    this.empty.dataset.t = wanted ? "nothing_found" : "no_conversations";
    this.empty.textContent = t(this.empty.dataset.t);
    this.empty.hidden = shown.length > 0;
    const focused = document.activeElement?.closest?.("li")?.dataset.id;
    const part = document.activeElement?.localName;
    this.list.replaceChildren(...shown.map((conversation) => this.item(conversation)));
    if (focused) this.list.querySelector(`li[data-id="${CSS.escape(focused)}"] ${part === "a" ? "a" : "button"}`)?.focus();
  }

  item(conversation) {
    const { id, title } = conversation;
    const more = iconButton("more", "more", () => toggleMenu(more, this.actions(conversation)), {
      "aria-haspopup": "menu", "aria-expanded": "false", class: "icon-button more",
    });
    return h("li", { data: { id } },
      h("a", { href: `#/chat/${id}`, "aria-current": this.current() === id ? "page" : null, title },
        title || t("untitled")),
      more);
  }

  actions(conversation) {
    return [
      { key: "rename", run: () => this.rename(conversation) },
      { key: "export_markdown", run: () => exportConversation(this.store, conversation.id, "md") },
      { key: "export_json", run: () => exportConversation(this.store, conversation.id, "json") },
      { key: "delete", run: () => this.remove(conversation), danger: true },
    ];
  }

  rename({ id, title }) {
    const item = this.list.querySelector(`li[data-id="${CSS.escape(id)}"]`);
    if (!item) return;
    const field = h("input", { class: "rename", label: "rename", maxlength: 200 });
    field.value = title;
    this.renaming = true;
    let ended = false;
    const end = async (keep) => {
      if (ended) return;
      ended = true;
      this.renaming = false;
      const wanted = field.value.trim();
      if (keep && wanted) await this.store.update(id, { title: wanted });
      await this.refresh();
      this.list.querySelector(`li[data-id="${CSS.escape(id)}"] a`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (isComposing(event)) return;
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") {
        event.stopPropagation();
        end(false);
      }
    });
    field.addEventListener("blur", () => end(true));
    item.replaceChildren(field);
    field.focus();
    field.select();
  }

  async remove({ id }) {
    const removed = await this.store.remove(id);
    if (this.current() === id) this.onOpen(null);
    await this.refresh();
    if (!removed) return;
    toast("deleted", {
      key: "undo",
      run: async () => {
        await this.store.restore(removed);
        this.onOpen(id);
        await this.refresh();
      },
    });
  }
}
