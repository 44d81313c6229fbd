"""GLM-4.5's calls: `<tool_call>name`, pairs of `<arg_key>` and `<arg_value>`, `</tool_call>`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from chatglm.generation.stop import split_certain
from chatglm.messages import Tool
from chatglm.serve.parse.base import Delta, StateParser
from chatglm.serve.signature import is_string, name_of, parameters_of, properties_of


class TagParser(StateParser):
    """Passes an argument on when its value is complete; what a schema calls a string stays text."""

    OPEN, CLOSE = "<tool_call>", "</tool_call>"
    PAIR = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*", re.DOTALL)

    def __init__(self, tools: Sequence[Tool]) -> None:
        super().__init__("content")
        self.parameters = {name_of(tool): properties_of(parameters_of(tool)) for tool in tools}
        self.blank = ""
        self.name = ""
        self.num_arguments = 0

    def advance(self) -> list[Delta]:
        return self.in_content() if self.state == "content" else self.in_call()

    def in_content(self) -> list[Delta]:
        """Content up to a call; blank space before a call belongs to it."""
        content, tag, rest = self.held.partition(self.OPEN)
        if tag:
            self.held, self.state = rest, "name"
        else:
            content, self.held = split_certain(self.held, [self.OPEN])
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
        if not is_string(self.parameters.get(self.name, {}).get(key)):
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
