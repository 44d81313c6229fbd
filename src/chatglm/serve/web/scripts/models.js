// The models that are served and the one that is chosen.

import { listModels } from "./api.js";
import { connection } from "./connection.js";
import { h } from "./dom.js";
import { settings } from "./settings.js";

export const models = {
  names: [],
  loading: Promise.resolve(),

  /** The model that is asked: the chosen one while it is served, else the first. */
  get chosen() {
    const chosen = settings.get("model");
    return this.names.includes(chosen) ? chosen : this.names[0] ?? chosen ?? "";
  },

  /** The same once the list that was asked for last is there. */
  async known() {
    await this.loading;
    return this.chosen;
  },

  /** Asks for the list again; a service without an answer or a key is told of. */
  load() {
    this.loading = this.ask();
    return this.loading;
  },

  async ask() {
    try {
      this.names = await listModels();
      document.dispatchEvent(new Event("models"));
      return true;
    } catch (error) {
      if (error.kind === "key") document.dispatchEvent(new Event("key-wanted"));
      if (error.kind === "lost" || error.kind === "busy") connection.lost();
      return false;
    }
  },

  /** A list to choose from; one model is only named. */
  selector() {
    const select = h("select", { id: "model", label: "model" });
    const fill = () => {
      select.replaceChildren(...this.names.map((name) => h("option", { value: name }, name)));
      select.value = this.chosen;
      select.disabled = this.names.length < 2;
      select.hidden = this.names.length === 0;
    };
    select.addEventListener("change", () => settings.set("model", select.value));
    document.addEventListener("models", fill);
    document.addEventListener("setting", ({ detail }) => detail === "model" && fill());
    fill();
    return select;
  },
};
