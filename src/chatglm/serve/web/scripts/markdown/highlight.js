// Light colours for code: comments, strings, numbers, keywords. One pass, no nesting, linear in the text.

const C_LIKE = { line: "\\/\\/", block: ["\\/\\*", "\\*\\/"], strings: "\"'" };
const HASH = { line: "#", strings: "\"'" };
const words = (text) => new Set(text.split(" "));

const JAVASCRIPT = words(
  "async await break case catch class const continue debugger default delete do else export extends false "
  + "finally for from function get if import in instanceof interface let new null of return set static super "
  + "switch this throw true try type typeof undefined var void while yield enum implements",
);
const C = words(
  "auto bool break case catch char class const constexpr continue default delete do double else enum explicit "
  + "extern false float for friend if include inline int long namespace new noexcept nullptr operator private "
  + "protected public return short signed sizeof static struct switch template this throw true try typedef "
  + "typename union unsigned using virtual void volatile while define ifdef endif",
);
const JAVA = words(
  "abstract boolean break byte case catch char class const continue default do double else enum extends final "
  + "finally float for if implements import instanceof int interface long native new null package private "
  + "protected public record return short static super switch synchronized this throw throws true false try "
  + "var void while fun val when object override data sealed foreach string namespace using async await",
);

const LANGUAGES = {
  python: {
    ...HASH,
    triple: true,
    keywords: words(
      "False None True and as assert async await break case class continue def del elif else except finally for "
      + "from global if import in is lambda match nonlocal not or pass raise return self try while with yield",
    ),
  },
  javascript: { ...C_LIKE, strings: "\"'`", keywords: JAVASCRIPT },
  c: { ...C_LIKE, keywords: C },
  java: { ...C_LIKE, keywords: JAVA },
  go: {
    ...C_LIKE,
    strings: "\"'`",
    keywords: words(
      "break case chan const continue default defer else fallthrough false for func go goto if import interface "
      + "map nil package range return select struct switch true type var",
    ),
  },
  rust: {
    ...C_LIKE,
    strings: "\"",
    keywords: words(
      "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod "
      + "move mut pub ref return self Self static struct super trait true type unsafe use where while",
    ),
  },
  bash: {
    ...HASH,
    keywords: words(
      "case cd do done echo elif else esac exit export fi for function if in local read return set source sudo "
      + "then unset until while apt pip npm git docker curl",
    ),
  },
  sql: {
    line: "--",
    block: ["\\/\\*", "\\*\\/"],
    strings: "\"'`",
    anyCase: true,
    keywords: words(
      "add all alter and as asc between by case constraint create cross default delete desc distinct drop else end "
      + "exists foreign from full group having if in index inner insert into is join key left like limit not null "
      + "offset on or order outer primary references right select set table then union unique update values view "
      + "when where with",
    ),
  },
  json: { strings: "\"", keywords: words("true false null") },
  yaml: { ...HASH, keywords: words("true false null yes no") },
  css: { block: ["\\/\\*", "\\*\\/"], strings: "\"'", keywords: words("important media import supports root") },
  html: { block: ["<!--", "-->"], strings: "\"'", tags: true, keywords: new Set() },
};

const ALIASES = {
  py: "python", python3: "python", js: "javascript", jsx: "javascript", ts: "javascript", tsx: "javascript",
  typescript: "javascript", mjs: "javascript", "c++": "c", cpp: "c", cc: "c", h: "c", objc: "c", cuda: "c",
  "c#": "java", csharp: "java", cs: "java", kotlin: "java", scala: "java", swift: "java", php: "javascript",
  golang: "go", rs: "rust", sh: "bash", shell: "bash", zsh: "bash", console: "bash", dockerfile: "bash",
  makefile: "bash", mysql: "sql", sqlite: "sql", postgresql: "sql", jsonl: "json", json5: "json", yml: "yaml",
  toml: "yaml", ini: "yaml", scss: "css", less: "css", xml: "html", svg: "html", vue: "html", ruby: "python",
  r: "python", matlab: "python",
};

const LONGEST = 50000;
const patterns = new Map();

function patternOf(rules) {
  const parts = [];
  const comment = [];
  if (rules.block) comment.push(`${rules.block[0]}[^]*?(?:${rules.block[1]}|$)`);
  if (rules.line) comment.push(`${rules.line}[^\\n]*`);
  parts.push(`(?<comment>${comment.join("|") || "(?!)"})`);
  const strings = [...rules.strings].map((mark) => {
    const lines = mark === "`" ? "" : "\\n";
    return `${mark}(?:[^${mark}\\\\${lines}]|\\\\[^])*${mark}?`;
  });
  if (rules.triple) strings.unshift('"""[^]*?(?:"""|$)', "'''[^]*?(?:'''|$)");
  parts.push(`(?<string>${strings.join("|")})`);
  parts.push("(?<number>\\b(?:0[xXbBoO][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\w*)");
  if (rules.tags) parts.push("(?<keyword><\\/?[\\w-]+|\\/?>)");
  parts.push("(?<word>[\\p{L}_$][\\p{L}\\p{N}_$]*)");
  return new RegExp(parts.join("|"), "gu");
}

/** Text and spans for a piece of code in a language; plain text where it is not known. */
export function highlight(code, name) {
  const known = ALIASES[name] ?? name;
  const rules = Object.hasOwn(LANGUAGES, known) ? LANGUAGES[known] : undefined;
  const nodes = document.createDocumentFragment();
  if (!rules || code.length > LONGEST) {
    nodes.append(code);
    return nodes;
  }
  if (!patterns.has(known)) patterns.set(known, patternOf(rules));
  let plain = 0;
  const put = (start, end, kind) => {
    if (start > plain) nodes.append(code.slice(plain, start));
    const span = document.createElement("span");
    span.className = `code-${kind}`;
    span.textContent = code.slice(start, end);
    nodes.append(span);
    plain = end;
  };
  for (const match of code.matchAll(patterns.get(known))) {
    const { comment, string, number, keyword, word } = match.groups;
    const end = match.index + match[0].length;
    if (comment !== undefined) put(match.index, end, "comment");
    else if (string !== undefined) put(match.index, end, "string");
    else if (number !== undefined) put(match.index, end, "number");
    else if (keyword !== undefined) put(match.index, end, "keyword");
    else if (rules.keywords.has(rules.anyCase ? word.toLowerCase() : word)) {
      put(match.index, end, "keyword");
    } else if (code[end] === "(") put(match.index, end, "call");
  }
  nodes.append(code.slice(plain));
  return nodes;
}
