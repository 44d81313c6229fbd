"""`POST /`: the body and the answer of ChatGLM-6B's api.py, for programs of that time."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from chatglm.serve.chat import Chat
from chatglm.serve.errors import validated
from chatglm.serve.events import unless_gone
from chatglm.serve.protocol.base import Body
from chatglm.serve.protocol.chat import ChatBody
from chatglm.serve.routes import JsonRoute, begin, note

router = APIRouter(route_class=JsonRoute)


class OldBody(Body):
    """A question with what was said before, as pairs."""

    prompt: str = Field(min_length=1)
    history: list[list[str]] = Field(default=[], max_length=2048, fail_fast=True)
    max_length: int | None = Field(None, ge=1, le=1 << 20)
    top_p: float | None = Field(None, gt=0, le=1)
    temperature: float | None = Field(None, ge=0, le=2)


@router.post("/")
async def answer(request: Request, body: OldBody) -> Response:
    """The reply and the history with it; `max_length` counts prompt and reply."""
    registry, served = begin(request, None)
    registry.room(served, 1)
    messages = []
    for pair in body.history:
        turns = zip(("user", "assistant"), pair, strict=False)
        messages += [{"role": role, "content": text} for role, text in turns]
    messages.append({"role": "user", "content": body.prompt})
    given = {"messages": messages, "top_p": body.top_p, "temperature": body.temperature}
    chat = await run_in_threadpool(
        lambda: Chat(registry, served, validated(ChatBody, given), max_length=body.max_length)
    )
    note(request, chat.generation)
    await unless_gone(request, chat.whole())
    text = served.tokenizer.template.polish(chat.turns[0].content)
    return JSONResponse(
        {
            "response": text,
            "history": [*body.history, [body.prompt, text]],
            "status": 200,
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
    )
