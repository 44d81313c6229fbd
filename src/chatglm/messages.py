"""What is said in a conversation, whatever the model: roles, content, reasoning, tool calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

Role = Literal["system", "user", "assistant", "observation"]
ROLES = get_args(Role)
# OpenAI's names for roles of ours.
_ALIASES = {"developer": "system", "tool": "observation", "function": "observation"}

Tool = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A function that the model asks for; `arguments` is JSON text."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn.

    reasoning: what a thinking model wrote before its answer. metadata: the word behind the role,
        as ChatGLM3 and GLM-4 have it (`interpreter`, a tool's name). tools: what a system turn
        offers.
    """

    role: Role
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    metadata: str = ""
    tools: tuple[Tool, ...] = ()

    @staticmethod
    def from_dict(data: Mapping[str, object]) -> Message:
        """A message from OpenAI's shape, or from the shape of ChatGLM3's and GLM-4's histories."""
        role = data.get("role")
        role = _ALIASES.get(str(role), role)
        if role not in ROLES:
            raise ValueError(
                f"role must be one of {', '.join(ROLES)}, developer or tool, got "
                f"{data.get('role')!r}"
            )
        reasoning = data.get("reasoning_content", data.get("reasoning"))
        return Message(
            role=cast(Role, role),
            content=text_of(data.get("content")),
            reasoning=None if reasoning is None else str(reasoning),
            tool_calls=tuple(read_call(call) for call in items_of(data, "tool_calls")),
            metadata=str(data.get("metadata") or ""),
            tools=tuple(read_tool(tool) for tool in items_of(data, "tools")),
        )

    def to_dict(self) -> dict[str, object]:
        """OpenAI's shape."""
        data: dict[str, object] = {
            "role": "tool" if self.role == "observation" else self.role,
            "content": self.content,
        }
        if self.reasoning is not None:
            data["reasoning_content"] = self.reasoning
        if self.tool_calls:
            data["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        if self.metadata:
            data["metadata"] = self.metadata
        if self.tools:
            data["tools"] = list(self.tools)
        return data


def text_of(content: object) -> str:
    """The text of a content that may be a string, a list of text parts, a JSON value or nothing."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = []
        for part in content:
            if isinstance(part, str):
                parts.append(part)
            elif isinstance(part, Mapping) and part.get("type") == "text":
                parts.append(str(part.get("text", "")))
            else:
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise ValueError(f"content parts must be text, got {kind!r}")
        return "".join(parts)
    return json.dumps(content, ensure_ascii=False)


def items_of(data: Mapping[str, object], key: str) -> Sequence[object]:
    """The list under a key; empty where there is none."""
    items = data.get(key) or ()
    if not isinstance(items, list | tuple):
        raise ValueError(f"{key} must be a list, got {type(items).__name__}")
    return items


def read_tool(data: object) -> Tool:
    """What a tool is told as: an object, kept as it is."""
    if not isinstance(data, Mapping):
        raise ValueError(f"a tool must be an object, got {type(data).__name__}")
    return data


def read_call(data: object) -> ToolCall:
    """A tool call from OpenAI's shape; arguments may be JSON text or an object."""
    if not isinstance(data, Mapping):
        raise ValueError(f"a tool call must be an object, got {type(data).__name__}")
    function = data.get("function", data)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError("a tool call needs function.name, a string")
    arguments = function.get("arguments", "{}")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    identity = data.get("id")
    return ToolCall(
        name=function["name"], arguments=arguments, id=None if identity is None else str(identity)
    )
