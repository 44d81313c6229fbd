// What the reader chose, in localStorage; the key of the service only for this tab's life.

const PREFIX = "chatglm.";
const fallback = new Map();

function read(name) {
  try {
    const text = localStorage.getItem(PREFIX + name);
    return text === null ? undefined : JSON.parse(text);
  } catch {
    return fallback.get(name);
  }
}

export const settings = {
  /** The value under a name, or undefined. */
  get: read,

  /** Keeps a value; undefined forgets it. Storage that is full or forbidden holds it for this page only. */
  set(name, value) {
    try {
      if (value === undefined) localStorage.removeItem(PREFIX + name);
      else localStorage.setItem(PREFIX + name, JSON.stringify(value));
    } catch {
      fallback.set(name, value);
    }
    document.dispatchEvent(new CustomEvent("setting", { detail: name }));
  },
};

// Another tab changed something.
window.addEventListener("storage", (event) => {
  if (event.key?.startsWith(PREFIX)) {
    const detail = event.key.slice(PREFIX.length);
    document.dispatchEvent(new CustomEvent("setting", { detail }));
  }
});

/** The numbers that steer a reply: name, smallest, largest, step. Empty means the model's default. */
export const SAMPLING = [
  { name: "temperature", min: 0, max: 2, step: 0.1 },
  { name: "top_p", min: 0.01, max: 1, step: 0.05 },
  { name: "top_k", min: 0, max: 1000, step: 1 },
  { name: "min_p", min: 0, max: 1, step: 0.05 },
  { name: "max_tokens", min: 1, max: 131072, step: 1 },
  { name: "seed", min: 0, max: 4294967295, step: 1 },
  { name: "presence_penalty", min: -2, max: 2, step: 0.1 },
  { name: "frequency_penalty", min: -2, max: 2, step: 0.1 },
  { name: "repetition_penalty", min: 0.1, max: 10, step: 0.05 },
];

/** The settings of a request: only what was set. */
export function sampling() {
  const chosen = settings.get("sampling") ?? {};
  return Object.fromEntries(
    SAMPLING.map(({ name }) => [name, chosen[name]]).filter(([, value]) => Number.isFinite(value)),
  );
}

let key;
/** The API key, kept until the tab closes. */
export const apiKey = {
  get() {
    try {
      return sessionStorage.getItem(`${PREFIX}key`) ?? key ?? "";
    } catch {
      return key ?? "";
    }
  },
  set(value) {
    key = value;
    try {
      sessionStorage.setItem(`${PREFIX}key`, value);
    } catch {
      // Held in `key` for this page.
    }
  },
};
