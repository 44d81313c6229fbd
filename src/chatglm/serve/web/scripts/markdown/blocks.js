// The blocks of a Markdown text: headings, lists, tables, code, quotes, formulas, paragraphs. Data, no nodes.

const DEEPEST = 8;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$/;
// A longer line is no heading and opens no code; it also bounds what those expressions may look at.
const LONGEST_MARKED = 1000;
const MOST_FORMULA_LINES = 80;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,12})([-*+]|\d{1,9}[.)])(?:[ \t]+(.*)|[ \t]*)$/;
const DELIMITERS = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const DISPLAY = [["$$", "$$"], ["\\[", "\\]"]];

const match = (expression, line) => (line.length <= LONGEST_MARKED ? expression.exec(line) : null);
const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;

/** The cells of a table's row; a pipe in code or behind a backslash belongs to its cell. */
export function cells(line) {
  const found = [];
  let cell = "";
  let code = false;
  const row = line.trim().replace(/^\|/, "");
  for (let i = 0; i < row.length; i += 1) {
    if (row[i] === "\\" && row[i + 1] === "|") {
      cell += "|";
      i += 1;
    } else if (row[i] === "|" && !code) {
      found.push(cell.trim());
      cell = "";
    } else {
      if (row[i] === "`") code = !code && row.indexOf("`", i + 1) > 0;
      cell += row[i];
    }
  }
  if (cell.trim()) found.push(cell.trim());
  return found;
}

function startsTable(lines, i) {
  return lines[i].includes("|") && lines[i + 1] !== undefined && lines[i + 1].includes("-")
    && DELIMITERS.test(lines[i + 1]) && cells(lines[i]).length === cells(lines[i + 1]).length;
}

function startsBlock(lines, i) {
  const line = lines[i];
  return match(FENCE, line) || match(HEADING, line) || RULE.test(line) || QUOTE.test(line) || startsTable(lines, i)
    || DISPLAY.some(([open]) => line.trimStart().startsWith(open));
}

// Readers: each looks at line i and gives a block with `end`, the line after it, or null.

function readFence(lines, i) {
  const found = match(FENCE, lines[i]);
  if (!found) return null;
  const [, mark, language] = found;
  const indent = indentOf(lines[i]);
  let end = i + 1;
  const closes = (line) => line.trim().startsWith(mark) && line.trim().replaceAll(mark[0], "") === "";
  while (end < lines.length && !closes(lines[end])) end += 1;
  const body = lines.slice(i + 1, end).map((line) => line.slice(Math.min(indent, indentOf(line))));
  return { kind: "code", language: language.toLowerCase(), text: body.join("\n"), end: Math.min(end + 1, lines.length) };
}

function readFormula(lines, i) {
  const first = lines[i].trim();
  const pair = DISPLAY.find(([open]) => first.startsWith(open));
  if (!pair) return null;
  const [open, close] = pair;
  let text = first.slice(open.length);
  let end = i;
  while (!text.trimEnd().endsWith(close)) {
    end += 1;
    // Without an end it is still being written, or is none: then it stays a paragraph.
    if (end >= lines.length || end - i > MOST_FORMULA_LINES || isBlank(lines[end])) return null;
    text += `\n${lines[end]}`;
  }
  const source = text.trimEnd().slice(0, -close.length).trim();
  if (!source || source.includes(close)) return null;
  return { kind: "formula", text: source, end: end + 1 };
}

function readHeading(lines, i) {
  const found = match(HEADING, lines[i]);
  return found && { kind: "heading", level: found[1].length, text: found[2] ?? "", end: i + 1 };
}

function readTable(lines, i) {
  if (!startsTable(lines, i)) return null;
  const align = cells(lines[i + 1]).map((cell) => {
    if (cell.endsWith(":")) return cell.startsWith(":") ? "center" : "right";
    return "left";
  });
  let end = i + 2;
  while (end < lines.length && !isBlank(lines[end]) && lines[end].includes("|")) end += 1;
  const rows = lines.slice(i + 2, end).map((line) => cells(line));
  return { kind: "table", head: cells(lines[i]), align, rows, end };
}

function readQuote(lines, i, depth) {
  if (!QUOTE.test(lines[i])) return null;
  let end = i;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(i, end).map((line) => line.replace(QUOTE, ""));
  return { kind: "quote", blocks: readBlocks(inner, depth + 1), end };
}

function readItem(lines, i, found) {
  const width = Math.min(found[3] === undefined ? found[0].length + 1 : found[0].length - found[3].length,
    found[1].length + found[2].length + 4);
  const body = [found[3] ?? ""];
  let end = i + 1;
  let loose = false;
  while (end < lines.length) {
    const line = lines[end];
    if (isBlank(line)) {
      const next = lines[end + 1];
      if (next === undefined || isBlank(next) || indentOf(next) < Math.min(width, 2)) break;
      body.push("");
      loose = true;
    } else if (indentOf(line) >= Math.min(width, 2)) {
      body.push(line.slice(Math.min(width, indentOf(line))));
    } else if (ITEM.test(line) || isBlank(lines[end - 1]) || startsBlock(lines, end)) {
      break;
    } else {
      body.push(line);  // a line that was wrapped
    }
    end += 1;
  }
  return { body, end, loose };
}

function readList(lines, i, depth) {
  let found = ITEM.exec(lines[i]);
  if (!found) return null;
  const kind = found[2].slice(-1);
  const ordered = /\d/.test(found[2]);
  const margin = found[1].length;
  const items = [];
  let end = i;
  let loose = false;
  while (found && found[2].slice(-1) === kind && found[1].length < margin + 2 && !RULE.test(lines[end])) {
    const item = readItem(lines, end, found);
    loose ||= item.loose;
    end = item.end;
    const task = /^\[([ xX])\]\s+/.exec(item.body[0]);
    if (task) item.body[0] = item.body[0].slice(task[0].length);
    items.push({ blocks: readBlocks(item.body, depth + 1), done: task ? task[1] !== " " : undefined });
    let next = end;
    while (next < lines.length && isBlank(lines[next])) next += 1;
    found = next < lines.length && next - end < 2 ? ITEM.exec(lines[next]) : null;
    if (found && found[1].length >= margin - 1 && found[2].slice(-1) === kind) {
      loose ||= next > end;
      end = next;
    } else found = null;
  }
  return { kind: "list", ordered, start: ordered ? Number.parseInt(lines[i].trim(), 10) : 1, items, loose, end };
}

function readParagraph(lines, i) {
  let end = i + 1;
  while (end < lines.length && !isBlank(lines[end]) && !startsBlock(lines, end) && !ITEM.test(lines[end])) {
    end += 1;
  }
  const text = lines.slice(i, end).map((line) => line.trimStart()).join("\n").trimEnd();
  return { kind: "paragraph", text, end };
}

/** The blocks of some lines; `raw` is what a block was read from. */
export function readBlocks(lines, depth = 0) {
  const blocks = [];
  let i = 0;
  while (i < lines.length) {
    if (isBlank(lines[i])) {
      i += 1;
      continue;
    }
    const nested = depth < DEEPEST;
    const block = readFence(lines, i) ?? readFormula(lines, i) ?? readHeading(lines, i)
      ?? (RULE.test(lines[i]) ? { kind: "rule", end: i + 1 } : null) ?? readTable(lines, i)
      ?? (nested ? readQuote(lines, i, depth) ?? readList(lines, i, depth) : null) ?? readParagraph(lines, i);
    if (depth === 0) block.raw = lines.slice(i, block.end).join("\n");
    blocks.push(block);
    i = block.end;
  }
  return blocks;
}
