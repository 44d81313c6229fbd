"""The chat formats of the generations, exact to the id."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from chatglm.messages import Message, ToolCall
from chatglm.prompt import Prompt
from chatglm.tokenizer.base import Tokenizer
from chatglm.tokenizer.builtin_tools import GLM4_SYSTEM, GLM4_TOOLS, GLM_0414_SYSTEM, MOE_TOOLS
from chatglm.tokenizer.sentencepiece import SentencePieceTokenizer
from chatglm.tokenizer.template import PrefixTemplate, Segment, Template, special


def rounds(messages: Sequence[Message]) -> list[tuple[str, str | None]]:
    """Questions with their answers, for the formats that know nothing else; a system turn goes before the first."""
    pairs: list[tuple[str, str | None]] = []
    system = ""
    for message in messages:
        if message.role == "system":
            system += message.content + "\n\n"
        elif message.role == "assistant":
            if not pairs or pairs[-1][1] is not None:
                pairs.append(("", None))
            pairs[-1] = (pairs[-1][0], message.content)
        else:
            pairs.append((system + message.content, None))
            system = ""
    return pairs


class GLM2021Template(PrefixTemplate):
    """GLM (2021): no chat; `[CLS] text [gMASK] <eos> <sop>` is continued."""

    is_chat = False
    sop = "<|startofpiece|>"
    ends = ("<|endofpiece|>", "<|endoftext|>")
    blank_ends = ("<|endofpiece|>",)

    @property
    def before_text(self) -> list[int]:
        return self.ids_of(["[CLS]"]) if "[CLS]" in self.tokenizer.special else []

    @property
    def after_text(self) -> list[int]:
        return self.ids_of(["<|endoftext|>"]) if "<|endoftext|>" in self.tokenizer.special else []

    def segments(
        self, messages: Sequence[Message], *, thinking: bool | None, reply: bool
    ) -> Iterator[Segment]:
        if self.before_text:
            yield special("[CLS]")
        yield Segment("\n".join(message.content for message in messages))
        yield special(self.gmask)
        if self.after_text:
            yield special("<|endoftext|>")
        yield special(self.sop)

    def continuation(self, text: str) -> Prompt:
        ids = [*self.tokenizer.encode(text), *self.ids_of([self.gmask])]
        return self.as_prompt([*self.tokenizer.wrap(ids), *self.ids_of([self.sop])])

    def as_blank(self, text: str, tokens: list[int], start: list[int]) -> Prompt:
        return super().as_blank(text, self.tokenizer.wrap(tokens), start)


class ChatGLMTemplate(PrefixTemplate):
    """ChatGLM-6B: `[Round N]`, 问 and 答 as text, then `[gMASK] <sop>`."""

    ends = ("<eop>",)

    @property
    def before_text(self) -> list[int]:
        return []

    @property
    def after_text(self) -> list[int]:
        return self.ids_of([self.gmask, self.sop])

    def segments(
        self, messages: Sequence[Message], *, thinking: bool | None, reply: bool
    ) -> Iterator[Segment]:
        pairs = rounds(messages)
        if not reply and pairs and pairs[-1][1] is None:
            raise ValueError("a whole conversation ends with an assistant turn")
        *past, (query, answer) = pairs
        text = "".join(
            f"[Round {i}]\n问：{question}\n答：{told}\n" for i, (question, told) in enumerate(past)
        )
        yield Segment(f"{text}[Round {len(past)}]\n问：{query}\n答：" if past else query)
        yield special(self.gmask)
        yield special(self.sop)
        if not reply:
            yield Segment(answer or "", is_learnt=True)
            yield special("<eop>", learnt=True)

    def encode_part(self, text: str, *, first: bool) -> list[int]:
        if not text:
            return []
        if first or not isinstance(self.tokenizer, SentencePieceTokenizer):
            return self.tokenizer.encode(text)
        return self.tokenizer.encode_inside(text)

    def polish(self, text: str) -> str:
        """Strip, name the time of training, and give Chinese its full-width marks, as the official code does."""
        text = text.strip().replace("[[训练时间]]", "2023年")
        return widen(text)


_WIDE = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}


def widen(text: str) -> str:
    """Half-width marks beside a Chinese character made full-width."""
    for mark, wide in _WIDE.items():
        text = re.sub(rf"([\u4e00-\u9fff]){re.escape(mark)}", rf"\1{wide}", text)
        text = re.sub(rf"{re.escape(mark)}([\u4e00-\u9fff])", rf"{wide}\1", text)
    return text


class ChatGLM2Template(Template):
    """ChatGLM2: `[Round N]` from 1 with blank lines, after `[gMASK] sop`."""

    sop = "sop"
    ends = ("<eos>",)
    blank_ends = ("eop",)

    def segments(
        self, messages: Sequence[Message], *, thinking: bool | None, reply: bool
    ) -> Iterator[Segment]:
        pairs = rounds(messages)
        *past, (query, answer) = pairs
        text = "".join(
            f"[Round {i}]\n\n问：{question}\n\n答：{told}\n\n"
            for i, (question, told) in enumerate(past, start=1)
        )
        yield special(self.gmask)
        yield special(self.sop)
        yield Segment(f"{text}[Round {len(pairs)}]\n\n问：{query}\n\n答：")
        if not reply:
            yield Segment(answer or "", is_learnt=True)
            yield special("<eos>", learnt=True)

    def polish(self, text: str) -> str:
        return text.strip().replace("[[训练时间]]", "2023年")


class RoleTemplate(Template):
    """Role tokens, as in ChatGLM3 and GLM-4: role, metadata, line end, content; the next role ends a reply."""

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
        parts = [message.content or self.default_system, "\n\n# 可用工具"]
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
                    f"tool {tool.get('type')!r} is not known to this format; it takes functions and "
                    + ", ".join(GLM4_TOOLS)
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
    """The embedded model's: GLM-4's roles, and the line end behind the role belongs to the question."""

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
        import ast

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


_TEMPLATES: dict[str, type[Template]] = {
    "glm": GLM2021Template,
    "chatglm": ChatGLMTemplate,
    "chatglm2": ChatGLM2Template,
    "chatglm3": ChatGLM3Template,
    "glm4": RoleTemplate,
    "glm4_0414": GLM0414Template,
    "glm_z1": Z1Template,
    "glm4_moe": MoeTemplate,
    "nano": NanoTemplate,
}


def make_template(tokenizer: Tokenizer) -> Template:
    """The chat format of a tokenizer's generation."""
    if tokenizer.generation not in _TEMPLATES:
        raise ValueError(
            f"generation must be one of {', '.join(_TEMPLATES)}, got {tokenizer.generation!r}"
        )
    return _TEMPLATES[tokenizer.generation](tokenizer)
