// A conversation is a tree: a question that was edited and an answer that was asked for again are branches.

/** The messages of a conversation by id, each with those that follow it. */
export class Tree {
  constructor(messages) {
    this.byId = new Map();
    this.children = new Map();
    for (const message of [...messages].sort((a, b) => a.created - b.created)) this.add(message);
  }

  add(message) {
    if (!this.byId.has(message.id)) {
      const siblings = this.children.get(message.parent) ?? [];
      siblings.push(message.id);
      this.children.set(message.parent, siblings);
    }
    this.byId.set(message.id, message);
  }

  /** The messages from the first to `leaf`. */
  path(leaf) {
    const path = [];
    for (let at = this.byId.get(leaf); at && path.length < this.byId.size; at = this.byId.get(at.parent)) {
      path.push(at);
    }
    return path.reverse();
  }

  /** The newest end of the branch that goes through a message. */
  end(id) {
    let at = id;
    for (let next = this.children.get(at); next?.length; next = this.children.get(at)) at = next.at(-1);
    return at;
  }

  siblings(message) {
    return this.children.get(message.parent) ?? [];
  }

  /** Which of how many versions a message is. */
  place(message) {
    const siblings = this.siblings(message);
    return { index: siblings.indexOf(message.id), count: siblings.length };
  }
}

/** What the service is asked for the reply that follows a path; it forgets what came before a reply
 * that was asked for without it. */
export function asMessages(system, path) {
  const start = Math.max(0, path.findLastIndex((message) => message.forgets) - 1);
  const messages = path.slice(start)
    .filter((message) => message.content)
    .map(({ role, content }) => ({ role, content }));
  return system ? [{ role: "system", content: system }, ...messages] : messages;
}
