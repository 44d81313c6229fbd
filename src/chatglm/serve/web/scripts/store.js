// Conversations in the browser's IndexedDB. Every message is a record of its own that names the one
// before it, so that two tabs that write at once add branches and never overwrite each other.

const NAME = "chatglm";
const VERSION = 1;

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});
const finished = (transaction) => new Promise((resolve, reject) => {
  transaction.oncomplete = resolve;
  transaction.onerror = () => reject(transaction.error);
  transaction.onabort = () => reject(transaction.error);
});

/** An id that no other tab draws; `crypto.randomUUID` is missing on pages that are not https. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A conversation without messages. */
export function newConversation(fields) {
  const now = Date.now();
  return { id: newId(), title: "", system: "", leaf: null, created: now, updated: now, ...fields };
}

async function openDatabase() {
  const request = indexedDB.open(NAME, VERSION);
  request.onupgradeneeded = () => {
    const database = request.result;
    database.createObjectStore("conversations", { keyPath: "id" });
    database.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
  };
  const database = await done(request);
  database.onversionchange = () => database.close();
  return database;
}

/** Conversations and their messages; `onChange` hears of what other tabs did. */
class Store {
  constructor(database) {
    this.database = database;
    this.channel = "BroadcastChannel" in window ? new BroadcastChannel("chatglm") : null;
    this.listeners = [];
    if (this.channel) {
      this.channel.onmessage = ({ data }) => this.listeners.forEach((listener) => listener(data));
    }
  }

  onChange(listener) {
    this.listeners.push(listener);
  }

  tell(conversation) {
    this.channel?.postMessage(conversation);
  }

  /** All conversations, the last used first. */
  async conversations() {
    const all = await done(this.database.transaction("conversations").objectStore("conversations").getAll());
    return all.sort((a, b) => b.updated - a.updated);
  }

  /** A conversation and its messages, or null. */
  async open(id) {
    const transaction = this.database.transaction(["conversations", "messages"]);
    const conversation = done(transaction.objectStore("conversations").get(id));
    const messages = done(transaction.objectStore("messages").index("conversation").getAll(id));
    return (await conversation) ? { conversation: await conversation, messages: await messages } : null;
  }

  async add(conversation) {
    await this.write(["conversations"], (stores) => stores.conversations.put(conversation));
    this.tell(conversation.id);
  }

  /** Changes some fields of a conversation and no other, whoever else writes. */
  async update(id, fields) {
    await this.write(["conversations"], async (stores) => {
      const conversation = await done(stores.conversations.get(id));
      if (conversation) stores.conversations.put({ ...conversation, ...fields });
    });
    this.tell(id);
  }

  /** Keeps a message, unless its conversation was deleted meanwhile; true if it was kept. */
  async saveMessage(message) {
    let kept = false;
    await this.write(["conversations", "messages"], async (stores) => {
      const conversation = await done(stores.conversations.get(message.conversation));
      if (!conversation) return;
      kept = true;
      stores.messages.put({ ...message, saved: Date.now() });
    });
    this.tell(message.conversation);
    return kept;
  }

  /** Writes messages without waiting, for a page that is being closed. */
  saveAtOnce(messages) {
    const store = this.database.transaction("messages", "readwrite").objectStore("messages");
    for (const message of messages) store.put({ ...message, saved: Date.now() });
  }

  /** Deletes a conversation; what it was, for `restore`. */
  async remove(id) {
    const removed = await this.open(id);
    await this.write(["conversations", "messages"], (stores) => {
      stores.conversations.delete(id);
      for (const message of removed?.messages ?? []) stores.messages.delete(message.id);
    });
    this.tell(id);
    return removed;
  }

  async restore({ conversation, messages }) {
    await this.write(["conversations", "messages"], (stores) => {
      stores.conversations.put(conversation);
      for (const message of messages) stores.messages.put(message);
    });
    this.tell(conversation.id);
  }

  /** The ids of the conversations whose title or messages hold a text. */
  async search(text) {
    const wanted = text.toLowerCase();
    const transaction = this.database.transaction(["conversations", "messages"]);
    const titles = done(transaction.objectStore("conversations").getAll());
    const messages = done(transaction.objectStore("messages").getAll());
    const found = new Set();
    for (const { id, title } of await titles) if (title.toLowerCase().includes(wanted)) found.add(id);
    for (const { conversation, content } of await messages) {
      if (content.toLowerCase().includes(wanted)) found.add(conversation);
    }
    return found;
  }

  async write(names, change) {
    const transaction = this.database.transaction(names, "readwrite");
    const stores = Object.fromEntries(names.map((name) => [name, transaction.objectStore(name)]));
    const end = finished(transaction);
    await change(stores);
    await end;
  }
}

/** The same for a page that may not keep data: everything is forgotten with the page. */
export class MemoryStore {
  constructor() {
    this.all = new Map();  // id → {conversation, messages by id}
  }

  onChange() {}

  async conversations() {
    return [...this.all.values()].map(({ conversation }) => conversation).sort((a, b) => b.updated - a.updated);
  }

  async open(id) {
    const found = this.all.get(id);
    return found ? { conversation: found.conversation, messages: [...found.messages.values()] } : null;
  }

  async add(conversation) {
    this.all.set(conversation.id, { conversation, messages: new Map() });
  }

  async update(id, fields) {
    const found = this.all.get(id);
    if (found) found.conversation = { ...found.conversation, ...fields };
  }

  async saveMessage(message) {
    const found = this.all.get(message.conversation);
    found?.messages.set(message.id, message);
    return Boolean(found);
  }

  saveAtOnce() {}

  async remove(id) {
    const removed = await this.open(id);
    this.all.delete(id);
    return removed;
  }

  async restore({ conversation, messages }) {
    const byId = new Map(messages.map((message) => [message.id, message]));
    this.all.set(conversation.id, { conversation, messages: byId });
  }

  async search(text) {
    const wanted = text.toLowerCase();
    const holds = ({ conversation, messages }) => [conversation.title, ...[...messages.values()].map((m) => m.content)]
      .some((part) => part.toLowerCase().includes(wanted));
    return new Set([...this.all.values()].filter(holds).map(({ conversation }) => conversation.id));
  }
}

/** The store, opened. Throws where the browser keeps no data for this page. */
export async function openStore() {
  return new Store(await openDatabase());
}
