"""`/v1/chat/completions`: messages, tools, formats."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chatglm.messages import Message
from chatglm.serve.protocol.base import MAX_TOKENS, Body, SamplingBody

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Schema = dict[str, object]


class TextPart(Body):
    """A part of a message."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class CalledFunction(Body):
    """A function and the JSON text of its arguments."""

    name: Name
    arguments: str


class ToolCallBody(Body):
    """A call that an assistant's turn has made."""

    id: str | None = Field(None, max_length=256)
    type: Literal["function"] = "function"
    index: int | None = None
    function: CalledFunction


class MessageBody(Body):
    """A turn of the conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    name: str | None = Field(None, max_length=256)
    tool_calls: list[ToolCallBody] | None = Field(None, max_length=128, fail_fast=True)
    tool_call_id: str | None = Field(None, max_length=256)
    reasoning_content: str | None = None
    # What a reply of ours or OpenAI's has besides, and clients send back with it.
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[object] | None = Field(None, max_length=0)

    @model_validator(mode="after")
    def check(self) -> MessageBody:
        """Every turn says something."""
        if self.content is None and not self.tool_calls:
            raise ValueError(f"content is missing in a turn of {self.role}")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls belong to a turn of the assistant")
        return self

    @property
    def text(self) -> str:
        """The content's text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    def message(self) -> Message:
        """The turn as templates take it."""
        data: dict[str, object] = {"role": self.role, "content": self.text}
        if self.reasoning_content is not None:
            data["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            data["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        return Message.from_dict(data)


class Function(Body):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool that the model may use."""

    type: Literal["function"]
    function: Function

    def data(self) -> dict[str, object]:
        """The tool as templates write it."""
        function = self.function.model_dump(exclude_none=True, exclude={"strict"})
        return {"type": "function", "function": function}


class ChosenName(Body):
    """The name of a function."""

    name: Name


class ChosenTool(Body):
    """The function that must be called."""

    type: Literal["function"]
    function: ChosenName


class TextFormat(Body):
    """A reply without any form."""

    type: Literal["text"]


class ObjectFormat(Body):
    """A reply that is a JSON object."""

    type: Literal["json_object"]


class NamedSchema(Body):
    """A JSON schema with a name."""

    name: Name
    description: str | None = None
    schema_: Schema | None = Field(None, alias="schema")
    strict: bool | None = None


class SchemaFormat(Body):
    """A reply that a JSON schema describes."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class TemplateOptions(Body):
    """The only settings of a chat format that a client may give."""

    enable_thinking: bool | None = None


class Thinking(Body):
    """Thinking on or off."""

    type: Literal["enabled", "disabled"]


class ChatBody(SamplingBody):
    """A request for the next turn of a conversation."""

    messages: list[MessageBody] = Field(min_length=1, max_length=4096, fail_fast=True)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = Field(None, max_length=128, fail_fast=True)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    thinking: Thinking | None = None
    chat_template_kwargs: TemplateOptions | None = None
    modalities: list[Literal["text"]] | None = Field(None, fail_fast=True)

    @model_validator(mode="after")
    def check_chat(self) -> ChatBody:
        """Fields that need each other."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("tool_choice needs tools")
        if isinstance(self.tool_choice, ChosenTool):
            name = self.tool_choice.function.name
            if name not in [tool.function.name for tool in self.tools or []]:
                raise ValueError(f"tool_choice names {name}, which is none of the tools")
        return self

    @property
    def limit(self) -> int | None:
        """Most tokens of a reply."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_thinking(self) -> bool | None:
        """Whether the model is to think first; None for its own default."""
        if self.thinking is not None:
            return self.thinking.type == "enabled"
        if self.chat_template_kwargs and self.chat_template_kwargs.enable_thinking is not None:
            return self.chat_template_kwargs.enable_thinking
        return None if self.reasoning_effort is None else self.reasoning_effort != "none"
