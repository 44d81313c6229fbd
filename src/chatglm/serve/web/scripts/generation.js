// One reply while it is written: deltas into the message, the message into the store, its times measured.

import { chat } from "./api.js";
import { connection } from "./connection.js";
import { models } from "./models.js";

const SAVE_EVERY = 400;
// A message that says "streaming" and was not saved for this long has lost its tab.
export const ALIVE = 6000;

/** Writes a reply into `message`; `onUpdate` hears of every change, `onEnd` of the last. */
export class Generation {
  constructor({ store, message, request, onUpdate, onEnd }) {
    Object.assign(this, { store, message, request, onUpdate, onEnd });
    this.abort = new AbortController();
    this.saved = 0;
  }

  stop() {
    this.abort.abort();
  }

  async run() {
    const { message } = this;
    this.begun = performance.now();
    const heartbeat = setInterval(() => this.save(), 2000);
    try {
      message.model ||= await models.known();
      const request = { ...this.request, model: message.model, signal: this.abort.signal };
      for await (const delta of chat(request)) this.take(delta);
      message.state = "done";
    } catch (error) {
      if (error.name === "AbortError") message.state = "stopped";
      else this.fail(error);
    } finally {
      clearInterval(heartbeat);
      this.measure();
      await this.save();
      this.onEnd(this);
    }
  }

  fail(error) {
    const { message } = this;
    message.state = "failed";
    message.error = { kind: error.kind ?? "failed", text: error.message, code: error.code, wait: error.wait };
    if (error.kind === "lost") connection.lost();
    if (error.kind === "key") document.dispatchEvent(new Event("key-wanted"));
  }

  take({ content, reasoning, calls, finish, usage }) {
    const { message } = this;
    if ((content || reasoning || calls.length) && this.first === undefined) this.first = performance.now();
    message.content += content;
    message.reasoning += reasoning;
    for (const call of calls) {
      const kept = (message.calls[call.index ?? 0] ??= { name: "", arguments: "" });
      kept.name += call.function?.name ?? "";
      kept.arguments += call.function?.arguments ?? "";
    }
    if (finish) message.finish = finish;
    if (usage) this.usage = usage;
    this.last = performance.now();
    this.onUpdate(this);
    if (this.last - this.saved > SAVE_EVERY) this.save();
  }

  measure() {
    if (this.first === undefined) return;
    const { message, usage } = this;
    message.stats = { first: this.first - this.begun, seconds: (this.last - this.begun) / 1000 };
    const tokens = usage?.completion_tokens;
    if (tokens) {
      message.stats.tokens = tokens;
      const between = (this.last - this.first) / 1000;
      if (tokens > 1 && between > 0) message.stats.rate = (tokens - 1) / between;
    }
  }

  async save() {
    this.saved = performance.now();
    try {
      const kept = await this.store.saveMessage({ ...this.message });
      if (!kept) this.stop();  // its conversation was deleted, here or in another tab
    } catch {
      // The disk is full or storage was taken away: the reply still shows, it just is not kept.
    }
  }
}
