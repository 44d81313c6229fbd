// Starts the page: storage, parts, tabs, and what the address says is shown.

import { APPLICATIONS } from "./applications.js";
import { Chat } from "./chat.js";
import { Drawer, watchKey } from "./drawer.js";
import { h, icon, iconButton, toast } from "./dom.js";
import { fillPanel } from "./fill.js";
import { language, t, translate } from "./i18n.js";
import { models } from "./models.js";
import { settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { MemoryStore, openStore } from "./store.js";
import { Tabs } from "./tabs.js";

const sidebar = document.getElementById("sidebar");
const scrim = document.getElementById("scrim");
const THEMES = { auto: "light", light: "dark", dark: "auto" };
const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };

function preferences() {
  const theme = iconButton("auto", "theme", () => {
    settings.set("theme", THEMES[settings.get("theme") ?? "auto"]);
  }, { id: "theme" });
  const words = h("button", { type: "button", class: "language", id: "language", label: "language" });
  words.addEventListener("click", () => settings.set("language", language() === "zh" ? "en" : "zh"));
  const show = () => {
    const chosen = settings.get("theme") ?? "auto";
    document.documentElement.dataset.theme = chosen;
    theme.replaceChildren(icon(THEME_ICONS[chosen] ?? "auto"));
    theme.dataset.label = `theme_${chosen}`;
    words.textContent = language() === "zh" ? "English" : "中文";
    translate();
  };
  document.addEventListener("setting", ({ detail }) => ["theme", "language"].includes(detail) && show());
  document.getElementById("preferences").append(words, theme);
  show();
}

const narrow = window.matchMedia("(max-width: 800px)");

function showSidebar(open) {
  sidebar.classList.toggle("open", open);
  scrim.hidden = !open;
  document.getElementById("menu")?.setAttribute("aria-expanded", String(open));
  if (open) sidebar.querySelector("button, a, input")?.focus();
}

async function storage() {
  try {
    return await openStore();
  } catch {
    toast("no_storage");
    return new MemoryStore();
  }
}

/** What the address shows: a tab, and a conversation within the chat. */
function route() {
  const [, tab = "chat", id = null] = location.hash.split("/");
  return { tab: tab || "chat", id: id || null };
}

async function start() {
  const store = await storage();
  // The address changes and is followed at once: an event that comes later would leave a moment in which
  // what is typed still goes to the conversation that was left.
  const go = (tab, id = null) => {
    const hash = id ? `#/${tab}/${id}` : `#/${tab}`;
    if (location.hash !== hash) history.pushState(null, "", hash);
    follow();
  };
  const panels = document.getElementById("panels");
  const tabs = new Tabs(panels, (tab) => go(tab, tab === "chat" ? chat.conversation?.id : null));
  const chat = new Chat({
    store,
    root: tabs.add("chat"),
    onOpen: (id) => go("chat", id),
  });
  tabs.add("fill", fillPanel(), "v1/fill");
  for (const application of APPLICATIONS) {
    tabs.add(application.name, application.panel(), application.path);
  }
  const drawer = new Drawer({ chat, store });
  const menu = iconButton("menu", "menu", () => showSidebar(!sidebar.classList.contains("open")), {
    id: "menu", class: "icon-button only-narrow", "aria-expanded": "false", "aria-controls": "sidebar",
  });
  document.getElementById("top").append(menu, tabs.list, models.selector(),
    iconButton("settings", "settings", () => drawer.open(), { id: "settings" }));
  const list = new Sidebar({
    store,
    root: document.getElementById("sidebar-body"),
    onOpen: (id) => go("chat", id),
    current: () => (route().tab === "chat" ? chat.conversation?.id ?? null : null),
  });

  const follow = async () => {
    const { hash } = location;
    const { tab, id } = route();
    const isThere = tab !== "chat" || (await chat.open(id));
    if (location.hash !== hash) return undefined;  // the reader has gone on meanwhile
    if (!isThere) {
      history.replaceState(null, "", "#/chat");
      return follow();
    }
    tabs.show(tab);
    list.refresh();
    if (narrow.matches) showSidebar(false);
    if (tabs.shown === "chat" && !matchMedia("(pointer: coarse)").matches) chat.composer.focus();
    return undefined;
  };
  window.addEventListener("hashchange", follow);
  scrim.addEventListener("click", () => showSidebar(false));
  // The link to what is shown already changes no address.
  sidebar.addEventListener("click", (event) => event.target.closest("a") && showSidebar(false));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (sidebar.classList.contains("open")) {
      showSidebar(false);
      menu.focus();
    } else if (tabs.shown === "chat") chat.stop();
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    go("chat", chat.conversation?.id);
    chat.composer.focus();
  });
  let discovered;
  document.addEventListener("models", () => { discovered = tabs.discover(); });
  document.addEventListener("connected", () => models.load());
  preferences();
  watchKey();
  await follow();
  await models.load();
  await discovered;
  document.title = t("title");
  document.body.dataset.ready = "";
}

start();
