"""Formats with role tokens: ChatGLM3, GLM-4, GLM-4-0414 and the embedded model."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence

from chatglm.messages import Message, ToolCall
from chatglm.tokenizer.builtin_tools import (
    GLM4_OLDER_SYSTEM,
    GLM4_SYSTEM,
    GLM4_TOOLS,
    GLM_0414_SYSTEM,
)
from chatglm.tokenizer.template import Segment, Template, special


class RoleTemplate(Template):
    """Role tokens, as in ChatGLM3 and GLM-4: role, metadata, line end, content; the next role ends
    a reply.
    """

    ends = ("<|endoftext|>", "<|user|>", "<|observation|>")
    reply_start = ""
    default_system = GLM4_SYSTEM
    tool_gap = "\n\n"

    def segments(
        self, messages: Sequence[Message], *, thinking: bool | None, reply: bool
    ) -> Iterator[Segment]:
        yield special(self.gmask)
        yield special(self.sop)
        before: Message | None = None
        for message in messages:
            ended = before is not None and before.role == "assistant"
            yield special(f"<|{message.role}|>", learnt=ended)
            yield from self.turn(message)
            before = message
        if reply:
            yield special("<|assistant|>")
            if self.reply_start:
                yield Segment(self.reply_start)
        elif before is not None and before.role == "assistant":
            calls = bool(before.tool_calls or before.metadata)
            yield special("<|observation|>" if calls else "<|user|>", learnt=True)

    def turn(self, message: Message) -> Iterator[Segment]:
        """What stands behind the role token."""
        learnt = message.role == "assistant"
        if learnt and message.tool_calls:
            for index, call in enumerate(message.tool_calls):
                if index:
                    yield special("<|assistant|>", learnt=True)
                yield Segment(f"{call.name}\n", is_learnt=True)
                yield Segment(self.call_text(call), is_learnt=True)
            return
        is_head_learnt = learnt and not self.reply_start
        yield Segment(f"{message.metadata}\n", is_learnt=is_head_learnt)
        if message.role == "system":
            yield Segment(self.system_text(message))
        elif message.content:
            yield Segment(message.content, is_learnt=learnt)

    def call_text(self, call: ToolCall) -> str:
        """A tool call's arguments in this format."""
        return call.arguments

    def system_text(self, message: Message) -> str:
        """A system turn with what its tools need."""
        if not message.tools:
            return message.content
        parts = [message.content or self.default_system]
        if message.content != GLM4_OLDER_SYSTEM:
            parts.append("\n\n# 可用工具")
        for tool in message.tools:
            function = tool.get("function")
            if isinstance(function, dict):
                body = json.dumps(function, ensure_ascii=False, indent=4)
                parts.append(
                    f"{self.tool_gap}## {function['name']}\n\n{body}\n"
                    "在调用上述函数时，请使用 Json 格式表示调用的参数。"
                )
            elif str(tool.get("type")) in GLM4_TOOLS:
                parts.append(self.tool_gap + GLM4_TOOLS[str(tool["type"])])
            else:
                raise ValueError(
                    f"tool {tool.get('type')!r} is not known to this format; it takes functions "
                    "and " + ", ".join(GLM4_TOOLS)
                )
        return "".join(parts)

    def parse_text(self, text: str) -> Message:
        """Content, or a tool's name in the first line and its arguments below."""
        head, line_end, body = text.partition("\n")
        name = head.strip()
        if not line_end or not name or not re.fullmatch(r"[\w.-]+", name):
            return Message(role="assistant", content=self.polish(text))
        arguments = self.parse_arguments(body.strip())
        if arguments is None:
            return Message(role="assistant", content=self.polish(text))
        return Message(
            role="assistant", tool_calls=(ToolCall(name=name, arguments=arguments),), metadata=name
        )

    def parse_arguments(self, body: str) -> str | None:
        """JSON text of a call's arguments; None where the body is none."""
        try:
            value = json.loads(body)
        except ValueError:
            return None
        return body if isinstance(value, dict) else None

    def polish(self, text: str) -> str:
        return text.strip().replace("[[训练时间]]", "2023年")


class NanoTemplate(RoleTemplate):
    """The embedded model's: GLM-4's roles, and the line end behind the role belongs to the
    question.
    """

    reply_start = "\n"

    @property
    def before_text(self) -> list[int]:
        return []


class ChatGLM3Template(RoleTemplate):
    """ChatGLM3: role tokens; tools as JSON below the system text, calls as a line of Python."""

    sop = "sop"
    ends = ("<eos>", "<|user|>", "<|observation|>")
    blank_ends = ("eop",)

    def system_text(self, message: Message) -> str:
        if not message.tools:
            return message.content
        tools = [tool.get("function", tool) for tool in message.tools]
        return f"{message.content}\n{json.dumps(tools, indent=4, ensure_ascii=False)}"

    def call_text(self, call: ToolCall) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in json.loads(call.arguments).items())
        return f"```python\ntool_call({arguments})\n```"

    def parse_arguments(self, body: str) -> str | None:
        found = re.search(r"tool_call\((.*)\)", body, re.DOTALL)
        if found is None:
            return None
        try:
            call = ast.parse(f"f({found[1]})", mode="eval").body
            assert isinstance(call, ast.Call)
            values = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        return json.dumps(values, ensure_ascii=False)


class GLM0414Template(RoleTemplate):
    """GLM-4-0414: GLM-4's with its own system text."""

    default_system = GLM_0414_SYSTEM
    tool_gap = "\n"
