// The service's side: OpenAI's protocol over fetch, answers as events, one shape for what goes wrong.

import { apiKey } from "./settings.js";

/** What went wrong: `kind` is lost (no answer, or it broke off), key, busy, missing, refused or failed. */
export class ServiceError extends Error {
  constructor(kind, message = "", more = {}) {
    super(message);
    this.kind = kind;
    this.status = more.status;
    this.code = more.code;
    this.wait = more.wait;
  }
}

const KINDS = { 401: "key", 403: "key", 404: "missing", 405: "missing", 429: "busy", 503: "busy" };

async function errorOf(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not JSON: a proxy's page. The status says enough.
  }
  const kind = KINDS[response.status] ?? (response.status >= 500 ? "failed" : "refused");
  return new ServiceError(kind, String(error.message ?? `HTTP ${response.status}`), {
    status: response.status,
    code: error.code,
    wait: Number(response.headers.get("Retry-After")) || undefined,
  });
}

/** The response to a request; throws a ServiceError for any other than a good one. */
export async function request(path, { body, signal, method } = {}) {
  const headers = { Accept: "application/json, text/event-stream" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("lost");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** The JSON of a response. */
export async function getJson(path, options) {
  const response = await request(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("lost");
  }
}

/** The events of a stream: {event, data} with data parsed; ends at [DONE]. A stream that breaks off throws. */
export async function* events(path, { body, signal }) {
  const response = await request(path, { body, signal });
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let pieces = [];
  let event = "message";
  let data = [];
  try {
    while (true) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new ServiceError("lost");
      });
      pieces.push(done ? `${decoder.decode()}\n` : decoder.decode(value, { stream: true }));
      if (!pieces.at(-1).includes("\n")) continue;  // a line is split once, however long it grows
      const lines = pieces.join("").split(/\r?\n/);
      pieces = [lines.pop()];
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line.startsWith("event:")) event = line.slice(6).trim();
        else if (line === "" && data.length) {
          const text = data.join("\n");
          data = [];
          if (text === "[DONE]") return;
          yield { event, data: parsed(text) };
          event = "message";
        }
      }
      if (done) throw new ServiceError("lost");
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(text) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new ServiceError("failed", text.slice(0, 200));
  }
  if (data?.error) {
    throw new ServiceError("failed", String(data.error.message ?? data.error), { code: data.error.code });
  }
  return data;
}

/** The names of the models that are served. */
export async function listModels() {
  const { data } = await getJson("v1/models");
  return data.map((model) => model.id);
}

/** Whether the service is up and takes requests. */
export async function healthy() {
  try {
    await request("health", { signal: AbortSignal.timeout(4000) });
    return true;
  } catch (error) {
    // Without a health route it still answers.
    return error instanceof ServiceError && ["missing", "key"].includes(error.kind);
  }
}

/** The deltas of a chat reply: {content, reasoning, calls, finish, usage}. */
export async function* chat({ model, messages, options, signal }) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true }, ...options };
  for await (const { data } of events("v1/chat/completions", { body, signal })) {
    const choice = data.choices?.[0];
    const delta = choice?.delta ?? {};
    yield {
      content: delta.content ?? "",
      reasoning: delta.reasoning_content ?? delta.reasoning ?? "",
      calls: delta.tool_calls ?? [],
      finish: choice?.finish_reason ?? undefined,
      usage: data.usage ?? undefined,
    };
  }
}

/** The paths that this service has, as its own description says. */
export async function offers() {
  try {
    return new Set(Object.keys((await getJson("openapi.json")).paths ?? {}));
  } catch {
    return new Set();
  }
}
