// A menu beside a button: arrows move, Escape closes, the focus goes back where it was.

import { h } from "./dom.js";

let open = null;

function close() {
  if (!open) return;
  const { list, button } = open;
  open = null;
  list.remove();
  button.setAttribute("aria-expanded", "false");
  button.focus();
}

document.addEventListener("pointerdown", (event) => {
  if (open && !open.list.contains(event.target) && !open.button.contains(event.target)) close();
});

function keys(event, list) {
  const items = [...list.children];
  const at = items.indexOf(document.activeElement);
  const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 };
  if (event.key === "Escape" || event.key === "Tab") {
    event.preventDefault();
    event.stopPropagation();
    close();
  } else if (event.key in moves) {
    event.preventDefault();
    items.at(moves[event.key] % items.length).focus();
  }
}

/** Opens a menu below a button, or closes it. `items`: [{key, run, danger}]. */
export function toggleMenu(button, items) {
  const again = open?.button === button;
  close();
  if (again) return;
  const list = h("div", { class: "menu", role: "menu" }, ...items.map(({ key, run, danger }) => h("button", {
    type: "button",
    role: "menuitem",
    class: danger ? "danger" : "",
    t: key,
    on: { click: () => { close(); run(); } },
  })));
  list.addEventListener("keydown", (event) => keys(event, list));
  document.body.append(list);
  const place = button.getBoundingClientRect();
  list.style.left = `${Math.max(8, Math.min(place.left, window.innerWidth - list.offsetWidth - 8))}px`;
  const below = place.bottom + 4;
  const above = place.top - list.offsetHeight - 4;
  list.style.top = `${below + list.offsetHeight > window.innerHeight ? Math.max(8, above) : below}px`;
  button.setAttribute("aria-expanded", "true");
  open = { list, button };
  list.firstElementChild.focus();
}
