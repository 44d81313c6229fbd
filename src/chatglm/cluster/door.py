"""The door of a service in several replicas: keys, limits and time-outs are its affair, and a
request whose replica is lost before it begins to answer goes to another one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from fastapi import FastAPI, Request
from starlette.types import Message, Receive, Scope, Send

from chatglm.cluster.replica import TOLD
from chatglm.serve import metrics
from chatglm.serve.app import middleware_of
from chatglm.serve.errors import ApiError, add_handlers, shape
from chatglm.serve.events import KEEP_ALIVE, ClientGone, event, unless_gone
from chatglm.serve.record import Record
from chatglm.serve.settings import Settings

TRIES = 3
WAIT = 5.0
"""Seconds that a replica may take to say that it is well."""
WRITES = "/v1/support"
"""Requests below this path leave something behind, and are not made twice."""
DROPPED = {b"authorization", b"origin", b"x-request-id", b"connection", b"transfer-encoding"}
ADDED = {b"x-request-id", b"x-content-type-options", b"referrer-policy", b"content-security-policy"}


class Answers(Protocol):
    """What hands a request to some replica: its answer, message by message."""

    def remote(self, scope: dict[str, Any], body: bytes, /) -> Answer:
        """Begin."""
        ...


class Answer(Protocol):
    """An answer that comes from a replica."""

    def __aiter__(self) -> AsyncIterator[list[Message]]: ...

    def cancel(self) -> None:
        """Let the replica know that nobody waits any more."""
        ...


class Door:
    """Hands every request to a replica, and the answer back."""

    def __init__(self, replicas: Answers, lost: tuple[type[Exception], ...]) -> None:
        self.replicas, self.lost = replicas, lost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        if request.app.state.is_draining:
            raise ApiError(503, "the server is stopping", code="draining", retry_after=5)
        body = await request.body()
        out = Out(send)
        work = self.answer(forwarded(scope), body, out, scope["chatglm.record"])
        try:
            if scope["path"] in ("/health", "/ready"):
                async with asyncio.timeout(WAIT):
                    await work
            else:
                await unless_gone(request, work)
        except ClientGone:
            if not out.is_complete:  # a client that has all of its answer may go
                raise
        except TimeoutError as error:
            raise ApiError(503, "no replica is ready", code="loading", retry_after=5) from error

    async def answer(self, scope: dict[str, Any], body: bytes, out: Out, record: Record) -> None:
        """The answer of a replica; of another where one is lost that had not begun."""
        tries = 1 if scope["path"].startswith(WRITES) else TRIES
        for _ in range(tries):
            answer = self.replicas.remote(scope, body)
            try:
                async for messages in answer:
                    for message in messages:
                        if message["type"] == TOLD:
                            record.elsewhere = message["fields"]
                            record.finishes_elsewhere = message["finishes"]
                        else:
                            await out.take(message)
                return
            except self.lost:
                if out.has_begun:
                    break
            finally:
                answer.cancel()
        error = ApiError(
            503, "the replica with this request was lost; send it again", code="replica_lost",
            retry_after=1,
        )  # fmt: skip
        if not out.is_open:
            raise error
        await out.end(error)


class Out:
    """The way out to the client: what comes first is held until something follows, so that nothing
    is sent of an answer that is never given.
    """

    def __init__(self, send: Send) -> None:
        self.send = send
        self.held: Message | None = None
        self.is_open = False
        self.has_begun = False
        self.is_complete = False
        self.is_stream = False

    async def take(self, message: Message) -> None:
        """Send a message on."""
        if message["type"] == "http.response.start":
            headers = [(k, v) for k, v in message["headers"] if k.lower() not in ADDED]
            kinds = [v for k, v in headers if k.lower() == b"content-type"]
            self.is_stream = any(kind.startswith(b"text/event-stream") for kind in kinds)
            self.held = {**message, "headers": headers}
            return
        if self.held is not None and not self.is_open:
            await self.send(self.held)
            self.is_open = True
        self.held = None
        self.has_begun |= message.get("body") != KEEP_ALIVE
        self.is_complete = not message.get("more_body", False)
        await self.send(message)

    async def end(self, error: ApiError) -> None:
        """Close an answer that has begun and cannot be finished; a stream says why."""
        if not self.is_stream:
            raise ConnectionError(error.message)  # the connection is closed, the body is cut off
        body = event(shape(error))
        await self.send({"type": "http.response.body", "body": body, "more_body": False})


def forwarded(scope: Scope) -> dict[str, Any]:
    """What a replica is told of a request: neither the key nor the page that it comes from."""
    record: Record = scope["chatglm.record"]
    kept = [(k, v) for k, v in scope["headers"] if k.lower() not in DROPPED]
    plain = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string")
    return {key: scope[key] for key in plain if key in scope} | {
        "headers": [*kept, (b"x-request-id", record.id.encode())],
        "client": tuple(scope["client"]) if scope.get("client") else None,
        "root_path": "",
        "chatglm.tenant": record.tenant,
    }


def make_door(
    replicas: Answers,
    lost: tuple[type[Exception], ...],
    settings: Settings,
    engines: Callable[[], metrics.Numbers],
    *,
    report: Callable[[Record], None] | None = None,
) -> FastAPI:
    """The application that stands before the replicas.

    lost: the errors by which the loss of a replica is known. engines: asks the replicas' engines
    for their numbers.
    """
    numbers = metrics.Metrics()
    numbers.engines = engines

    def tell(record: Record) -> None:
        numbers.request(record, time.perf_counter() - record.start)
        if report is not None:
            report(record)

    app = FastAPI(
        title="chatglm",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=middleware_of(settings, tell),
    )
    app.state.is_draining = False
    app.state.error = None
    app.state.metrics = numbers
    add_handlers(app)
    app.include_router(metrics.router)
    app.mount("/", Door(replicas, lost))
    return app
