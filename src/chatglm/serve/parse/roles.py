"""ChatGLM3's and GLM-4's calls: the name of an offered tool in the first line, arguments below."""

from __future__ import annotations

from collections.abc import Sequence

from chatglm.serve.parse.base import Delta, StateParser
from chatglm.tokenizer.roles import ChatGLM3Template, RoleTemplate


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


class RoleParser(StateParser):
    """Passes a call's JSON on as it comes; ChatGLM3's line of Python when it is complete."""

    def __init__(self, template: RoleTemplate, names: Sequence[str]) -> None:
        self.template, self.names = template, frozenset(names)
        self.is_python = isinstance(template, ChatGLM3Template)
        super().__init__("head")  # a name may stand here; then body, python or content
        self.scanner = JsonScanner()

    def advance(self) -> list[Delta]:
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
