"""A reply's text, piece by piece, as content, reasoning and tool calls, by the model's format."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatglm.messages import Tool
from chatglm.tokenizer.roles import ChatGLM3Template, RoleTemplate
from chatglm.tokenizer.template import Template
from chatglm.tokenizer.thinking import MoeTemplate, Z1Template


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a piece of text adds: content, reasoning, or a tool call, by its index.

    name: on the first delta of a call. arguments: more of its JSON text.
    """

    content: str = ""
    reasoning: str = ""
    call: int | None = None
    name: str = ""
    arguments: str = ""


class ReplyParser(ABC):
    """Text in, deltas out; any cut of the text gives the same sum."""

    num_calls = 0

    @abstractmethod
    def push(self, text: str) -> list[Delta]:
        """What the text makes certain."""

    def flush(self) -> list[Delta]:
        """The rest, once the reply has ended."""
        return []


class PlainParser(ReplyParser):
    """Everything is content."""

    def push(self, text: str) -> list[Delta]:
        return [Delta(content=text)] if text else []


class JsonScanner:
    """Finds the end of one JSON object in text that comes in pieces."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self.escapes = False

    def end(self, text: str) -> int | None:
        """Index behind the object's last brace; None where it goes on."""
        for i, letter in enumerate(text):
            if self.escapes:
                self.escapes = False
            elif self.in_string:
                self.escapes = letter == "\\"
                self.in_string = letter != '"'
            elif letter == '"':
                self.in_string = True
            elif letter in "{[":
                self.depth += 1
            elif letter in "}]":
                self.depth -= 1
                if self.depth == 0:
                    return i + 1
        return None


class RoleParser(ReplyParser):
    """ChatGLM3's and GLM-4's calls: the name of an offered tool in the first line, arguments below.

    A call's JSON is passed on as it comes; ChatGLM3's line of Python when it is complete.
    """

    def __init__(self, template: RoleTemplate, names: Sequence[str]) -> None:
        self.template, self.names = template, frozenset(names)
        self.is_python = isinstance(template, ChatGLM3Template)
        self.held = ""
        self.state = "head"  # head: a name may stand here; body, python, content
        self.scanner = JsonScanner()

    def push(self, text: str) -> list[Delta]:
        self.held += text
        deltas: list[Delta] = []
        while True:
            before = (self.state, len(self.held))
            deltas += self.advance()
            if not self.held or before == (self.state, len(self.held)):
                return deltas

    def advance(self) -> list[Delta]:
        """What the held text makes certain in this state."""
        if self.state == "content":
            return self.take_content()
        if self.state == "body":
            end = self.scanner.end(self.held)
            piece = self.held if end is None else self.held[:end]
            self.held = self.held[len(piece) :]
            if end is not None:
                self.state = "head"
            return [Delta(call=self.num_calls - 1, arguments=piece)] if piece else []
        if self.state == "head":
            return self.take_head()
        return []

    def take_content(self) -> list[Delta]:
        """All that is held, as content."""
        piece, self.held = self.held, ""
        return [Delta(content=piece)] if piece else []

    def take_head(self) -> list[Delta]:
        """A call's beginning; where the text cannot become one, it is content from here on."""
        text = self.held.lstrip() if self.num_calls else self.held
        head, line_end, body = text.partition("\n")
        if not line_end:
            if not any(name.startswith(head.strip()) for name in self.names):
                self.state = "content"
            return []
        start = body.lstrip()
        if head.strip() not in self.names or (start and not self.may_begin(start)):
            self.state = "content"
        elif self.is_python:
            if start.startswith("```python"):
                self.state = "python"
        elif start:
            self.held, self.state, self.scanner = start, "body", JsonScanner()
            self.num_calls += 1
            return [Delta(call=self.num_calls - 1, name=head.strip())]
        return []

    def may_begin(self, body: str) -> bool:
        """Whether a call's arguments may begin so."""
        opening = "```python" if self.is_python else "{"
        return body.startswith(opening) or opening.startswith(body)

    def flush(self) -> list[Delta]:
        if self.state == "python":
            head, _, body = self.held.strip().partition("\n")
            arguments = self.template.parse_arguments(body)
            if arguments is not None:
                self.held = ""
                self.num_calls += 1
                return [Delta(call=self.num_calls - 1, name=head.strip(), arguments=arguments)]
        if self.num_calls and not self.held.strip():
            self.held = ""
        return self.take_content()


class ThinkParser(ReplyParser):
    """Reasoning up to `</think>`, and another parser for what follows.

    begins: whether the reply begins inside the thoughts, because the prompt has opened them.
    """

    END = "</think>"
    START = "<think>"

    def __init__(self, inner: ReplyParser, *, begins: bool) -> None:
        self.inner = inner
        self.held = ""
        self.state = "reasoning" if begins else "start"
        self.has_begun = False
        self.blank = ""

    @property
    def num_calls(self) -> int:  # type: ignore[override]
        """Calls so far."""
        return self.inner.num_calls

    def push(self, text: str) -> list[Delta]:
        if self.state == "after" and not self.held:
            return self.inner.push(text)
        self.held += text
        deltas: list[Delta] = []
        if self.state == "start":
            start = self.held.lstrip()
            if start.startswith(self.START):
                self.held, self.state = start[len(self.START) :], "reasoning"
            elif self.START.startswith(start):
                return []
            else:
                self.state = "after"
        if self.state == "reasoning":
            thought, end, rest = self.held.partition(self.END)
            if end:
                deltas += self.reason(thought)
                self.state, self.held = "gap", rest
            else:
                keep = overlap(self.held, self.END)
                deltas += self.reason(self.held[: len(self.held) - keep])
                self.held = self.held[len(self.held) - keep :]
                return deltas
        if self.state == "gap":
            self.held = self.held.lstrip()
            if not self.held:
                return deltas
            self.state = "after"
        text, self.held = self.held, ""
        return deltas + self.inner.push(text)

    def reason(self, text: str) -> list[Delta]:
        """Reasoning without blank space at its two ends."""
        if not self.has_begun:
            text = text.lstrip()
            self.has_begun = bool(text)
        text = self.blank + text
        shown = text.rstrip()
        self.blank = text[len(shown) :]
        return [Delta(reasoning=shown)] if shown else []

    def flush(self) -> list[Delta]:
        text, self.held = self.held, ""
        deltas: list[Delta] = []
        if text and self.state == "reasoning":
            deltas += self.reason(text)
        elif text:
            deltas += self.inner.push(text)
        return deltas + self.inner.flush()


class TagParser(ReplyParser):
    """GLM-4.5's calls: `<tool_call>name`, pairs of `<arg_key>` and `<arg_value>`, `</tool_call>`.

    Each argument is passed on when its value is complete. One whose schema says string stays text.
    """

    OPEN, CLOSE = "<tool_call>", "</tool_call>"
    PAIR = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*", re.DOTALL)

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.kinds = {name_of(tool): kinds_of(tool) for tool in tools}
        self.held = ""
        self.blank = ""
        self.state = "content"
        self.name = ""
        self.num_arguments = 0

    def push(self, text: str) -> list[Delta]:
        self.held += text
        deltas: list[Delta] = []
        while True:
            before = (self.state, len(self.held))
            deltas += self.in_content() if self.state == "content" else self.in_call()
            if before == (self.state, len(self.held)):
                return deltas

    def in_content(self) -> list[Delta]:
        """Content up to a call; blank space before a call belongs to it."""
        content, tag, rest = self.held.partition(self.OPEN)
        if tag:
            self.held, self.state = rest, "name"
        else:
            keep = overlap(self.held, self.OPEN)
            content = self.held[: len(self.held) - keep]
            self.held = self.held[len(self.held) - keep :]
        content = self.blank + content
        shown = content.rstrip()
        self.blank = "" if tag else content[len(shown) :]
        if self.num_calls and shown:
            shown = shown.lstrip()
        return [Delta(content=shown)] if shown else []

    def in_call(self) -> list[Delta]:
        """What is certain of a call."""
        index = self.num_calls - 1
        if self.state == "name":
            found = re.search(r"<arg_key>|</tool_call>", self.held)
            if found is None:
                return []
            self.name = self.held[: found.start()].strip()
            self.held = self.held[found.start() :]
            self.state, self.num_arguments = "arguments", 0
            self.num_calls += 1
            return [Delta(call=self.num_calls - 1, name=self.name)]
        if self.held.lstrip().startswith(self.CLOSE):
            self.held = self.held.lstrip()[len(self.CLOSE) :]
            self.state = "content"
            return [Delta(call=index, arguments="}" if self.num_arguments else "{}")]
        pair = self.PAIR.match(self.held)
        if pair is None:
            return []
        self.held = self.held[pair.end() :]
        key = pair[1].strip()
        opening = ", " if self.num_arguments else "{"
        self.num_arguments += 1
        value = self.value(key, pair[2])
        text = f"{opening}{json.dumps(key, ensure_ascii=False)}: {value}"
        return [Delta(call=index, arguments=text)]

    def value(self, key: str, text: str) -> str:
        """JSON text of an argument."""
        if self.kinds.get(self.name, {}).get(key) != "string":
            try:
                return json.dumps(json.loads(text), ensure_ascii=False)
            except ValueError:
                pass
        return json.dumps(text, ensure_ascii=False)

    def flush(self) -> list[Delta]:
        if self.state == "content":
            text = self.blank + self.held
            self.held = self.blank = ""
            return [Delta(content=text)] if text.strip() else []
        if self.state == "name":
            text, self.held = self.OPEN + self.held, ""
            return [Delta(content=text)]
        # The reply was cut off inside a call: what is certain of it is closed.
        self.held = ""
        return [Delta(call=self.num_calls - 1, arguments="}" if self.num_arguments else "{}")]


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of the text that begins the mark."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


def name_of(tool: Tool) -> str:
    """A tool's name."""
    function = tool.get("function")
    return str(function.get("name")) if isinstance(function, Mapping) else ""


def kinds_of(tool: Tool) -> dict[str, object]:
    """The type of each parameter, as its schema has it."""
    function = tool.get("function")
    schema = function.get("parameters") if isinstance(function, Mapping) else None
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return {}
    return {key: s.get("type") for key, s in properties.items() if isinstance(s, Mapping)}


def make_parser(
    template: Template, tools: Sequence[Tool], *, thinking: bool | None = None
) -> ReplyParser:
    """The parser of a model's format, where these tools are offered."""
    if isinstance(template, MoeTemplate):
        inner: ReplyParser = TagParser(tools) if tools else PlainParser()
        return inner if thinking is False else ThinkParser(inner, begins=False)
    inner = PlainParser()
    if tools and isinstance(template, RoleTemplate):
        inner = RoleParser(template, [name_of(tool) for tool in tools])
    if isinstance(template, Z1Template):
        return ThinkParser(inner, begins=True)
    return inner
