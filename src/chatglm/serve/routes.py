"""Routes of the service: what stands at each path is in the modules beside."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import cast

import pydantic_core
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from chatglm.serve.chat import Chat
from chatglm.serve.completions import Completion
from chatglm.serve.errors import ApiError, invalid
from chatglm.serve.events import EventStream, unless_gone
from chatglm.serve.generation import Generation
from chatglm.serve.protocol.chat import ChatBody
from chatglm.serve.protocol.texts import CompletionBody
from chatglm.serve.record import Record
from chatglm.serve.registry import Registry, Served


class JsonRequest(Request):
    """A request whose body is read by a parser that bounds depth and knows no NaN."""

    async def json(self) -> object:
        body = await self.body()
        try:
            return pydantic_core.from_json(body, allow_inf_nan=False, cache_strings="none")
        except ValueError as error:
            raise invalid(f"the body is not valid JSON: {error}", code="invalid_json") from error


class JsonRoute(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handler


router = APIRouter(route_class=JsonRoute)


def registry_of(request: Request) -> Registry:
    """The models of the server; an error while there are none or it is about to stop."""
    state = request.app.state
    if state.is_draining:
        raise ApiError(503, "the server is stopping", code="draining", retry_after=5)
    if state.registry is None:
        raise ApiError(503, "the models are being loaded", code="loading", retry_after=5)
    if not state.registry.worker.is_alive:
        raise ApiError(503, "the engine has failed; restart the server", code="dead")
    return cast(Registry, state.registry)


def record_of(request: Request) -> Record:
    """What the log will say of the request."""
    return cast(Record, request.scope["chatglm.record"])


def begin(request: Request, name: str | None) -> tuple[Registry, Served]:
    """The registry and the model that a request names."""
    registry = registry_of(request)
    served = registry.find(name)
    record = record_of(request)
    record.model = served.name
    if registry.settings.log_content:
        record.decode = served.tokenizer.decode
    return registry, served


def note(request: Request, generation: Generation) -> None:
    """Have the log tell of a generation; its cache is shared by requests of the same key."""
    record = record_of(request)
    generation.jobs, generation.tenant = record.jobs, record.tenant


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: ChatBody) -> Response:
    """The next turn of a conversation."""
    registry, served = begin(request, body.model)
    registry.room(served, body.n or 1)
    chat = await run_in_threadpool(Chat, registry, served, body)
    note(request, chat.generation)
    if body.stream:
        chat.generation.check()
        return EventStream(chat.events(), keep_alive=registry.settings.keep_alive)
    return JSONResponse(await unless_gone(request, chat.whole()))


@router.post("/v1/completions")
async def completions(request: Request, body: CompletionBody) -> Response:
    """What follows a text."""
    registry, served = begin(request, body.model)
    completion = await run_in_threadpool(Completion, registry, served, body)
    note(request, completion.generation)
    if body.stream:
        completion.generation.check()
        return EventStream(completion.events(), keep_alive=registry.settings.keep_alive)
    return JSONResponse(await unless_gone(request, completion.whole()))


@router.get("/v1/models")
async def models(request: Request) -> dict[str, object]:
    """The models that requests may name."""
    registry = registry_of(request)
    return {"object": "list", "data": [card(served) for served in registry.served.values()]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, object]:
    """One of the models."""
    return card(registry_of(request).find(name))


def card(served: Served) -> dict[str, object]:
    """A model as lists show it."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "chatglm",
        "root": served.name,
        "max_model_len": served.max_length,
    }
