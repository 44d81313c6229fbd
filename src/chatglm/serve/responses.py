"""`/v1/responses`: OpenAI's newer shape over the same chat; nothing is kept between requests."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from chatglm.serve.chat import Chat
from chatglm.serve.errors import failure, shape, validated
from chatglm.serve.events import EventStream, event, unless_gone
from chatglm.serve.protocol.chat import ChatBody
from chatglm.serve.protocol.responses import FlatSchema, ResponseBody
from chatglm.serve.routes import JsonRoute, begin, note

router = APIRouter(route_class=JsonRoute)
Json = dict[str, object]


@router.post("/v1/responses")
async def create_response(request: Request, body: ResponseBody) -> Response:
    """The next turn, as a response with items."""
    registry, served = begin(request, body.model)
    registry.room(served, 1)
    chat = await run_in_threadpool(lambda: Chat(registry, served, as_chat(body)))
    note(request, chat.generation)
    response = ModelResponse(chat, body)
    if body.stream:
        chat.generation.check()
        return EventStream(response.events(), keep_alive=registry.settings.keep_alive)
    return JSONResponse(await unless_gone(request, response.whole()))


def as_chat(body: ResponseBody) -> ChatBody:
    """The request in the chat's shape."""
    form = body.text.format if body.text else None
    told: Json | None = None
    if isinstance(form, FlatSchema):
        schema = {"name": form.name, "schema": form.schema_}
        told = {"type": "json_schema", "json_schema": schema}
    elif form is not None:
        told = form.model_dump()
    choice = body.tool_choice
    if choice is not None and not isinstance(choice, str):
        named: object = {"type": "function", "function": {"name": choice.name}}
    else:
        named = choice
    return validated(
        ChatBody,
        {
            "messages": body.messages(),
            "model": body.model,
            "max_completion_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "tools": [t.tool().model_dump() for t in body.tools] if body.tools else None,
            "tool_choice": named,
            "parallel_tool_calls": body.parallel_tool_calls,
            "response_format": told,
            "reasoning_effort": body.reasoning.effort if body.reasoning else None,
        },
    )


class ModelResponse:
    """One response, whole or as events."""

    def __init__(self, chat: Chat, body: ResponseBody) -> None:
        self.chat, self.body = chat, body
        self.id = f"resp_{secrets.token_hex(12)}"
        self.number = -1
        self.items: list[Json] = []
        self.item: Item | None = None

    def describe(self, status: str, error: Json | None = None) -> Json:
        """The response as an object."""
        body, is_over = self.body, status in ("completed", "incomplete")
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.chat.created,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"}
            if status == "incomplete"
            else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self.chat.served.name,
            "output": list(self.items),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None},
            "store": False,
            "temperature": body.temperature,
            "text": {"format": body.text.format.model_dump(by_alias=True)}
            if body.text and body.text.format
            else {"format": {"type": "text"}},
            "tool_choice": body.tool_choice
            if body.tool_choice is None or isinstance(body.tool_choice, str)
            else body.tool_choice.model_dump(),
            "tools": [tool.model_dump() for tool in body.tools or []],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": self.usage() if is_over else None,
        } | ({"tool_choice": "auto"} if body.tool_choice is None else {})

    def usage(self) -> Json:
        """Tokens, in this endpoint's words."""
        made = self.chat.generation
        return {
            "input_tokens": made.num_prompt,
            "input_tokens_details": {"cached_tokens": made.num_cached},
            "output_tokens": made.num_new,
            "output_tokens_details": {"reasoning_tokens": self.chat.num_reasoning},
            "total_tokens": made.num_prompt + made.num_new,
        }

    async def whole(self) -> Json:
        """The response in one piece."""
        async with aclosing(self.run()) as events:
            async for _ in events:
                pass
        return self.describe(self.status)

    @property
    def status(self) -> str:
        """How the response has ended."""
        return "incomplete" if self.chat.turns[0].finish == "length" else "completed"

    async def events(self) -> AsyncGenerator[bytes]:
        """The response as a stream of named events."""
        for kind in ("response.created", "response.in_progress"):
            yield self.told(kind, response=self.describe("in_progress"))
        try:
            async with aclosing(self.run()) as events:
                async for kind, data in events:
                    yield self.told(kind, **data)
        except Exception as error:  # what has gone wrong is this stream's last event
            told = shape(failure(error))["error"]
            failed = self.describe("failed", {"code": "server_error", "message": told["message"]})
            yield self.told("response.failed", response=failed)
            return
        yield self.told(f"response.{self.status}", response=self.describe(self.status))

    def told(self, kind: str, **data: object) -> bytes:
        """One event."""
        self.number += 1
        return event({"type": kind, "sequence_number": self.number, **data}, kind)

    async def run(self) -> AsyncGenerator[tuple[str, Json]]:
        """What happens, while `items` grows: reasoning, a message, calls, each as it comes."""
        async with aclosing(self.chat.deltas()) as deltas:
            async for _, delta, _, _ in deltas:
                for told in self.take(delta):
                    yield told
        if self.item is None and not self.items:
            for told in self.begin("message", None):
                yield told
        for told in self.close():
            yield told

    def take(self, delta: Json) -> list[tuple[str, Json]]:
        """The events of a chat's delta; one of another kind ends the item before it."""
        calls = delta.get("tool_calls")
        assert calls is None or isinstance(calls, list)
        call = calls[0] if calls else None
        kind, piece = piece_of(delta, call)
        events: list[tuple[str, Json]] = []
        if self.item is None or self.item.kind != kind or (call and call.get("id")):
            if not piece and call is None:
                return []
            events = [*self.close(), *self.begin(kind, call)]
        if piece and self.item is not None:
            events.append(self.item.add(piece))
        return events

    def begin(self, kind: str, call: Json | None) -> list[tuple[str, Json]]:
        """Begin an item."""
        self.item = Item(kind, call, len(self.items))
        return self.item.open()

    def close(self) -> list[tuple[str, Json]]:
        """End the item that is open, and keep it."""
        if self.item is None:
            return []
        item, self.item = self.item, None
        self.items.append(item.data("completed"))
        return item.end()


def piece_of(delta: Json, call: Json | None) -> tuple[str, str]:
    """Kind of item and text of a chat's delta."""
    if delta.get("reasoning_content"):
        return "reasoning", str(delta["reasoning_content"])
    if call is not None:
        function = call["function"]
        assert isinstance(function, dict)
        return "function_call", str(function["arguments"])
    return "message", str(delta.get("content") or "")


PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class Item:
    """One item of a response's output while it grows."""

    def __init__(self, kind: str, call: Json | None, index: int) -> None:
        self.kind, self.index = kind, index
        self.id = f"{PREFIXES[kind]}_{secrets.token_hex(12)}"
        self.text = ""
        self.call_id = str(call["id"]) if call else ""
        function = call["function"] if call else {}
        assert isinstance(function, dict)
        self.name = str(function.get("name", ""))

    def data(self, status: str) -> Json:
        """The item as an object."""
        if self.kind == "function_call":
            return {
                "id": self.id,
                "type": "function_call",
                "status": status,
                "call_id": self.call_id,
                "name": self.name,
                "arguments": self.text,
            }
        if self.kind == "reasoning":
            content = [{"type": "reasoning_text", "text": self.text}] if self.text else []
            return {"id": self.id, "type": "reasoning", "summary": [], "content": content}
        is_open = status == "in_progress"
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [] if is_open else [self.part()],
        }

    def part(self) -> Json:
        """The only part of a message."""
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}

    @property
    def place(self) -> Json:
        """Where the item stands."""
        return {"item_id": self.id, "output_index": self.index}

    def open(self) -> list[tuple[str, Json]]:
        """The events of its beginning."""
        added = {"output_index": self.index, "item": self.data("in_progress")}
        told: list[tuple[str, Json]] = [("response.output_item.added", added)]
        if self.kind == "message":
            part = {**self.place, "content_index": 0, "part": self.part()}
            told.append(("response.content_part.added", part))
        return told

    def add(self, piece: str) -> tuple[str, Json]:
        """The event of more text."""
        self.text += piece
        if self.kind == "function_call":
            return "response.function_call_arguments.delta", {**self.place, "delta": piece}
        more: Json = {**self.place, "content_index": 0, "delta": piece}
        if self.kind == "reasoning":
            return "response.reasoning_text.delta", more
        return "response.output_text.delta", {**more, "logprobs": []}

    def end(self) -> list[tuple[str, Json]]:
        """The events of its end."""
        item: Json = {"output_index": self.index, "item": self.data("completed")}
        done = ("response.output_item.done", item)
        if self.kind == "function_call":
            whole: Json = {**self.place, "name": self.name, "arguments": self.text}
            return [("response.function_call_arguments.done", whole), done]
        text: Json = {**self.place, "content_index": 0, "text": self.text}
        if self.kind == "reasoning":
            return [("response.reasoning_text.done", text), done]
        part = {**self.place, "content_index": 0, "part": self.part()}
        return [
            ("response.output_text.done", {**text, "logprobs": []}),
            ("response.content_part.done", part),
            done,
        ]
