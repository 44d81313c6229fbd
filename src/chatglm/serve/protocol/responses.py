"""`/v1/responses`: input items and their forms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from chatglm.serve.protocol.base import MAX_TOKENS, Body
from chatglm.serve.protocol.chat import (
    Function,
    Name,
    ObjectFormat,
    Schema,
    TextFormat,
    TextPart,
    Tool,
)


class MessageItem(Body):
    """A turn."""

    type: Literal["message"] = "message"
    role: Literal["developer", "system", "user", "assistant"]
    content: str | list[TextPart | OutputText]
    id: str | None = Field(None, max_length=256)
    status: str | None = Field(None, max_length=32)
    phase: str | None = Field(None, max_length=32)


class OutputText(Body):
    """A part of an earlier reply, as it was sent."""

    type: Literal["output_text"]
    text: str
    annotations: list[object] | None = Field(None, max_length=0)
    logprobs: list[object] | None = None


class CallItem(Body):
    """A call that an earlier reply has made."""

    type: Literal["function_call"]
    call_id: str = Field(max_length=256)
    name: Name
    arguments: str
    id: str | None = Field(None, max_length=256)
    status: str | None = Field(None, max_length=32)


class CallOutputItem(Body):
    """What a called function has answered."""

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=256)
    output: str
    id: str | None = Field(None, max_length=256)
    status: str | None = Field(None, max_length=32)


class FunctionTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """The same in the chat's shape."""
        function = Function.model_validate(self.model_dump(exclude={"type"}))
        return Tool(type="function", function=function)


class ChosenFunction(Body):
    """The function that must be called."""

    type: Literal["function"]
    name: Name


class FlatSchema(Body):
    """A reply that a JSON schema describes."""

    type: Literal["json_schema"]
    name: Name
    schema_: Schema | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextOptions(Body):
    """The form of the reply's text."""

    format: (
        Annotated[TextFormat | ObjectFormat | FlatSchema, Field(discriminator="type")] | None
    ) = None
    verbosity: str | None = None


class Reasoning(Body):
    """How much thought goes before the reply."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: str | None = None


Item = MessageItem | CallItem | CallOutputItem


class ResponseBody(Body):
    """A request for a response."""

    model: str | None = Field(None, max_length=256)
    input: str | Annotated[list[Item], Field(min_length=1, max_length=4096, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool | None = None
    text: TextOptions | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=128, fail_fast=True)
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["disabled"] | None = None

    def messages(self) -> list[dict[str, object]]:
        """The conversation in the chat's shape."""
        turns: list[dict[str, object]] = []
        if self.instructions:
            turns.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            turns.append({"role": "user", "content": self.input})
        for item in self.input if isinstance(self.input, list) else []:
            if isinstance(item, MessageItem):
                text = item.content
                if not isinstance(text, str):
                    text = "".join(part.text for part in text)
                turns.append({"role": item.role, "content": text})
            elif isinstance(item, CallItem):
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                turns.append({"role": "assistant", "content": None, "tool_calls": [call]})
            else:
                turns.append({"role": "tool", "content": item.output, "tool_call_id": item.call_id})
        return turns
