// Conversations as files: Markdown for people, JSON for programs and for coming back.

import { download, toast } from "./dom.js";
import { t } from "./i18n.js";
import { newId } from "./store.js";
import { Tree } from "./tree.js";

const FORMAT = "chatglm-conversations";
const LARGEST = 200 << 20;

const fileName = (title) => (title || "chatglm").replace(/[\\/:*?"<>|\p{Cc}]+/gu, " ").trim().slice(0, 60) || "chatglm";

function asMarkdown({ conversation, messages }) {
  const path = new Tree(messages).path(conversation.leaf);
  const parts = [`# ${conversation.title || t("untitled")}`];
  if (conversation.system) parts.push(`> ${conversation.system.replaceAll("\n", "\n> ")}`);
  for (const { role, model, content } of path) {
    parts.push(`**${role === "user" ? t("you") : model || t("assistant")}**`, content);
  }
  return `${parts.join("\n\n")}\n`;
}

/** Saves one conversation: the branch that is shown as Markdown, or all of it as JSON. */
export async function exportConversation(store, id, kind) {
  const found = await store.open(id);
  if (!found) return;
  const name = fileName(found.conversation.title);
  if (kind === "md") download(`${name}.md`, asMarkdown(found), "text/markdown;charset=utf-8");
  else download(`${name}.json`, asJson([found]), "application/json");
}

/** Saves all conversations as JSON. */
export async function exportAll(store) {
  const all = await Promise.all((await store.conversations()).map(({ id }) => store.open(id)));
  download("chatglm.json", asJson(all.filter(Boolean)), "application/json");
}

function asJson(conversations) {
  return `${JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1)}\n`;
}

// Only fields that are known, each of its type: a file may come from anywhere.
const text = (value) => (typeof value === "string" ? value : "");
const number = (value) => (Number.isFinite(value) ? value : Date.now());

function readMessage(message, conversation, ids) {
  return {
    id: ids(message.id),
    conversation,
    parent: message.parent === null || message.parent === undefined ? null : ids(message.parent),
    role: message.role === "user" ? "user" : "assistant",
    content: text(message.content),
    reasoning: text(message.reasoning),
    calls: (Array.isArray(message.calls) ? message.calls : [])
      .map((call) => ({ name: text(call?.name), arguments: text(call?.arguments) })),
    model: text(message.model),
    state: message.state === "done" || message.role === "user" ? "done" : "stopped",
    finish: text(message.finish) || undefined,
    forgets: message.forgets === true,
    created: number(message.created),
    saved: number(message.saved),
  };
}

/** Adds the conversations of a file beside those that are there, under ids of their own. */
export async function importFile(store, file) {
  let data;
  try {
    if (file.size > LARGEST) throw new Error("too large");
    data = JSON.parse(await file.text());
    if (data?.format !== FORMAT || !Array.isArray(data.conversations)) throw new Error("another format");
    for (const { conversation, messages } of data.conversations) {
      const known = new Map();
      const ids = (old) => known.get(old) ?? known.set(old, newId()).get(old);
      const id = newId();
      await store.restore({
        conversation: {
          id,
          title: text(conversation.title),
          system: text(conversation.system),
          leaf: conversation.leaf ? ids(conversation.leaf) : null,
          created: number(conversation.created),
          updated: number(conversation.updated),
        },
        messages: messages.map((message) => readMessage(message, id, ids)),
      });
    }
  } catch {
    toast("import_failed");
    return;
  }
  document.dispatchEvent(new Event("conversations"));
  toast("imported");
}
