"""Markdown, plain text and HTML as passages under their headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from chatglm.apps.knowledge.extract.encoding import text_of
from chatglm.apps.knowledge.records import Passage
from chatglm.apps.knowledge.split import Block, passages

_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*$")
_FENCE = re.compile(r"\s*(```+|~~~+)")
_QUESTION = re.compile(r"\s*(?:[QqＱ]|问|問)\s*\d*\s*[:：.、]\s*(\S.*)")
_ANSWER = re.compile(r"\s*(?:[AaＡ]|答)\s*\d*\s*[:：.、]\s*(\S.*)")
_CHINESE_HEADING = re.compile(
    r"\s*(?:第[一二三四五六七八九十百\d]+[章节条部分篇]|[一二三四五六七八九十]+、)\s*\S[^。！？；]{0,38}$"
)


def markdown(path: Path) -> Iterator[Passage]:
    """The passages of a Markdown file; headings that ask with a text that answers are FAQ."""
    return passages(markdown_blocks(text_of(path)))


def markdown_blocks(text: str) -> Iterator[Block]:
    """Paragraphs, tables and code under their headings."""
    path: list[tuple[int, str]] = []
    lines: list[str] = []
    start, fence = 1, ""

    def block() -> Iterator[Block]:
        if any(line.strip() for line in lines):
            yield Block(
                text="\n".join(lines).strip("\n"),
                path=tuple(name for _, name in path),
                place=f"第 {start} 行",
            )
        lines.clear()

    for number, line in enumerate(text.split("\n"), start=1):
        if mark := _FENCE.match(line):
            fence = "" if fence and mark.group(1).startswith(fence) else fence or mark.group(1)
        if not fence and (heading := _HEADING.match(line)):
            yield from block()
            level = len(heading.group(1))
            path = [entry for entry in path if entry[0] < level]
            path.append((level, heading.group(2)))
        elif not fence and not line.strip():
            yield from block()
        else:
            if not lines:
                start = number
            lines.append(line)
    yield from block()


def plain(path: Path) -> Iterator[Passage]:
    """The passages of a text file: questions marked 问：/Q: with their answers, and paragraphs."""
    text = text_of(path)
    pairs = list(marked_pairs(text))
    return iter(pairs) if pairs else passages(plain_blocks(text))


def marked_pairs(text: str) -> Iterator[Passage]:
    """FAQ entries of a text that marks its questions and answers."""
    question, place, answer = "", "", list[str]()
    for number, line in enumerate([*text.split("\n"), "Q:."], start=1):
        if asked := _QUESTION.match(line):
            if question and any(answer):
                yield Passage(
                    kind="faq", question=question, text="\n".join(answer).strip(), place=place
                )
            question, place, answer = asked.group(1).strip(), f"第 {number} 行", []
        elif said := _ANSWER.match(line):
            answer.append(said.group(1).strip())
        elif answer:
            answer.append(line.strip())


def plain_blocks(text: str) -> Iterator[Block]:
    """Paragraphs, with lines that number themselves as headings."""
    path: tuple[str, ...] = ()
    lines: list[str] = []
    start = 1
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        is_heading = _CHINESE_HEADING.match(line)
        if lines and (is_heading or not line.strip()):
            yield Block(text="\n".join(lines), path=path, place=f"第 {start} 行")
            lines = []
        if is_heading:
            path = (line.strip(),)
        elif line.strip():
            if not lines:
                start = number
            lines.append(line.strip())


def html(path: Path) -> Iterator[Passage]:
    """The passages of an HTML page, without scripts, styles and navigation."""
    reader = _Page()
    reader.feed(text_of(path))
    reader.close()
    return passages(reader.finish())


class _Page(HTMLParser):
    """Collects the visible text of a page by block."""

    HIDDEN = frozenset({"script", "style", "noscript", "template", "nav", "svg", "iframe"})
    BLOCKS = frozenset(
        {"p", "div", "li", "section", "article", "table", "ul", "ol", "dd", "dt", "blockquote"}
        | {"pre", "header", "footer", "main", "body", "title", "head"}
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self.path: list[tuple[int, str]] = []
        self.pieces: list[str] = []
        self.hidden: list[str] = []
        self.heading = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A block begins, or what is not to be seen."""
        if tag in self.HIDDEN:
            self.hidden.append(tag)
        elif re.fullmatch("h[1-6]", tag):
            self.flush()
            self.heading = int(tag[1])
        elif tag in self.BLOCKS:
            self.flush()
        elif tag in ("br", "tr"):
            self.pieces.append("\n")
        elif tag in ("td", "th"):
            self.pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        """A block ends."""
        if tag in self.HIDDEN and tag in self.hidden:
            del self.hidden[self.hidden.index(tag) :]
        elif self.heading and tag == f"h{self.heading}":
            name = " ".join("".join(self.pieces).split())
            self.pieces.clear()
            self.path = [entry for entry in self.path if entry[0] < self.heading]
            if name:
                self.path.append((self.heading, name))
            self.heading = 0
        elif tag == "title":
            self.pieces.clear()
        elif tag in self.BLOCKS:
            self.flush()

    def handle_data(self, data: str) -> None:
        """Text, where it is seen."""
        if not self.hidden:
            self.pieces.append(re.sub(r"\s+", " ", data))

    def flush(self) -> None:
        """End the block."""
        lines = (" ".join(line.split()) for line in "".join(self.pieces).split("\n"))
        text = "\n".join(line for line in lines if line)
        self.pieces.clear()
        if text:
            names = tuple(name for _, name in self.path)
            place = f"第 {self.getpos()[0]} 行"
            self.blocks.append(Block(text=text, path=names, place=place))

    def finish(self) -> list[Block]:
        """All blocks."""
        self.flush()
        return self.blocks
