// The tabs: arrows move between them, and one whose endpoint this service lacks is not shown.

import { offers } from "./api.js";
import { h } from "./dom.js";

export class Tabs {
  constructor(panels, onChoose) {
    this.panels = panels;
    this.onChoose = onChoose;
    this.tabs = new Map();
    this.shown = "chat";
    this.list = h("div", { class: "tabs", role: "tablist", label: "tabs" });
    this.list.removeAttribute("title");
    this.list.addEventListener("keydown", (event) => this.key(event));
  }

  /** A panel's element. With `path`, the tab shows only where the service has it. */
  add(name, content = [], path = null) {
    const tab = h("button", {
      type: "button",
      role: "tab",
      id: `tab-${name}`,
      "aria-controls": `panel-${name}`,
      t: `tab_${name}`,
      hidden: Boolean(path),
      on: { click: () => this.onChoose(name) },
    });
    const panel = h("section", {
      class: `panel panel-${name}`, role: "tabpanel", id: `panel-${name}`, "aria-labelledby": tab.id, hidden: true,
    }, ...[content].flat());
    this.list.append(tab);
    this.panels.append(panel);
    this.tabs.set(name, { tab, panel, path });
    return panel;
  }

  /** Shows one tab; an unknown or missing one means the chat. */
  show(name) {
    this.wanted = name;
    const found = this.tabs.get(name);
    this.shown = found && !found.tab.hidden ? name : "chat";
    for (const [other, { tab, panel }] of this.tabs) {
      const chosen = other === this.shown;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      panel.hidden = !chosen;
      if (chosen) panel.dispatchEvent(new Event("shown"));
      if (chosen) tab.scrollIntoView?.({ block: "nearest", inline: "nearest" });
    }
  }

  /** Asks the service which endpoints it has. */
  async discover() {
    const paths = await offers();
    for (const { tab, path } of this.tabs.values()) if (path) tab.hidden = !paths.has(`/${path}`);
    this.show(this.wanted ?? "chat");
    document.dispatchEvent(new CustomEvent("tabs", { detail: paths }));
  }

  key(event) {
    const names = [...this.tabs].filter(([, { tab }]) => !tab.hidden).map(([name]) => name);
    const at = names.indexOf(this.shown);
    const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const name = names.at(moves[event.key] % names.length);
    this.onChoose(name);
    this.tabs.get(name).tab.focus();
  }
}
