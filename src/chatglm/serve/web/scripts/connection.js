// Whether the service answers. When it does not, a note says so and /health is asked until it does.

import { healthy } from "./api.js";
import { toast } from "./dom.js";

const WAITS = [500, 1000, 2000, 3000, 5000];
let polling = false;

async function poll() {
  for (let i = 0; ; i += 1) {
    await new Promise((resolve) => setTimeout(resolve, WAITS[Math.min(i, WAITS.length - 1)]));
    if (await healthy()) return;
  }
}

export const connection = {
  /** Tells the page that a request got no answer. */
  async lost() {
    if (polling) return;
    polling = true;
    const banner = document.getElementById("banner");
    banner.hidden = false;
    await poll();
    banner.hidden = true;
    polling = false;
    toast("connected_again");
    document.dispatchEvent(new Event("connected"));
  },

  /** Whether the service answered when it was last asked. */
  get up() {
    return !polling;
  },
};
