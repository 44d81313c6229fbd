"""Formats of models that think before they answer: GLM-Z1-0414, GLM-4.5 and 4.6."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from chatglm.messages import Message, ToolCall
from chatglm.tokenizer.builtin_tools import MOE_TOOLS
from chatglm.tokenizer.roles import GLM0414Template, RoleTemplate
from chatglm.tokenizer.template import Segment, special


class Z1Template(GLM0414Template):
    """GLM-Z1-0414: a reply begins with `<think>`; thoughts of earlier turns are left out."""

    reply_start = "\n<think>"

    def turn(self, message: Message) -> Iterator[Segment]:
        content = message.content.split("</think>")[-1].strip()
        if message.role == "assistant" and message.metadata:
            content = message.content
        yield from super().turn(
            Message(
                role=message.role,
                content=content,
                tool_calls=message.tool_calls,
                metadata=message.metadata,
                tools=message.tools,
            )
        )

    def parse_text(self, text: str) -> Message:
        return parse_thoughts(text)


def parse_thoughts(text: str) -> Message:
    """Reasoning before `</think>`, content behind it."""
    thought, end, content = text.partition("</think>")
    if not end:
        return Message(role="assistant", content=text.removeprefix("<think>").strip())
    reasoning = thought.strip().removeprefix("<think>").strip()
    return Message(role="assistant", content=content.strip(), reasoning=reasoning)


class MoeTemplate(RoleTemplate):
    """GLM-4.5 and 4.6: thinking on or off, tool calls as `<arg_key>` and `<arg_value>` pairs."""

    ends = ("<|endoftext|>", "<|user|>", "<|observation|>")

    def segments(
        self, messages: Sequence[Message], *, thinking: bool | None, reply: bool
    ) -> Iterator[Segment]:
        yield special(self.gmask)
        yield special(self.sop)
        tools = [tool for message in messages for tool in message.tools]
        if tools:
            listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
            yield special("<|system|>")
            yield Segment(MOE_TOOLS.format(tools=listed))
        last_user = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
        ended = False
        for index, message in enumerate(messages):
            if message.role == "system" and not message.content and message.tools:
                continue
            if message.role == "observation":
                if index == 0 or messages[index - 1].role != "observation":
                    yield special("<|observation|>", learnt=ended)
                yield Segment(f"\n<tool_response>\n{message.content}\n</tool_response>")
            else:
                yield special(f"<|{message.role}|>", learnt=ended)
                yield from self.moe_turn(message, thinking, is_recent=index > last_user)
            ended = message.role == "assistant"
        if reply:
            yield special("<|assistant|>")
            if thinking is False:
                yield Segment("\n<think></think>")
        elif ended:
            calls = bool(messages[-1].tool_calls)
            yield special("<|observation|>" if calls else "<|user|>", learnt=True)

    def moe_turn(
        self, message: Message, thinking: bool | None, *, is_recent: bool
    ) -> Iterator[Segment]:
        """What stands behind the role token of a system, user or assistant turn."""
        if message.role == "user":
            off = thinking is False and not message.content.endswith("/nothink")
            yield Segment(f"\n{message.content}{'/nothink' if off else ''}")
            return
        if message.role == "system":
            yield Segment(f"\n{message.content}")
            return
        parsed = parse_thoughts(message.content) if "</think>" in message.content else message
        reasoning = message.reasoning if message.reasoning is not None else parsed.reasoning
        thought = (reasoning or "").strip() if is_recent else ""
        text = f"\n<think>{thought}</think>"
        if parsed.content.strip():
            text += f"\n{parsed.content.strip()}"
        for call in message.tool_calls:
            text += f"\n<tool_call>{call.name}\n"
            for key, value in json.loads(call.arguments).items():
                shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                text += f"<arg_key>{key}</arg_key>\n<arg_value>{shown}</arg_value>\n"
            text += "</tool_call>"
        yield Segment(text, is_learnt=True)

    def parse_text(self, text: str) -> Message:
        """Reasoning, content and every `<tool_call>`."""
        parsed = parse_thoughts(text)
        calls = tuple(read_moe_call(body) for body in _MOE_CALL.findall(parsed.content))
        content = _MOE_CALL.sub("", parsed.content).strip()
        return Message(
            role="assistant", content=content, reasoning=parsed.reasoning, tool_calls=calls
        )


_MOE_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_MOE_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def read_moe_call(body: str) -> ToolCall:
    """A tool call from what stands between its tags."""
    name = body.split("<arg_key>")[0].strip()
    arguments: dict[str, object] = {}
    for key, value in _MOE_ARGUMENT.findall(body):
        try:
            arguments[key.strip()] = json.loads(value)
        except ValueError:
            arguments[key.strip()] = value
    return ToolCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False))
