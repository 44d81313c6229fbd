"""Server-sent events, and requests whose client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Mapping
from typing import TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatglm.serve.errors import failure, shape

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


class ClientGone(Exception):
    """The client has left before its answer was ready."""


def event(data: object, name: str | None = None) -> bytes:
    """One event; text as it is, without escapes."""
    head = f"event: {name}\n" if name else ""
    body = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{head}data: {body}\n\n".encode()


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[object, object, T]) -> T:
    """What the work comes to; it is cancelled at once if the client goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for waiting in (task, gone):
            await dispose(waiting)


async def dispose(task: Awaitable[object]) -> None:
    """Cancel a task and wait until it has ended."""
    assert isinstance(task, asyncio.Task)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


class EventStream(Response):
    """A stream of events; a comment in every silence, an error event where it fails.

    The generator is closed as soon as the client goes away.
    """

    def __init__(self, events: AsyncGenerator[bytes], *, keep_alive: float) -> None:
        self.events = events
        self.keep_alive = keep_alive
        self.status_code = 200
        self.background = None
        headers: Mapping[str, str] = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
        }
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        gone = asyncio.ensure_future(disconnected(receive))
        coming: asyncio.Task[bytes | None] | None = None
        try:
            await send(start)
            while not gone.done():
                coming = coming or asyncio.ensure_future(self.next())
                await asyncio.wait(
                    {gone, coming}, timeout=self.keep_alive, return_when=asyncio.FIRST_COMPLETED
                )
                if gone.done():
                    break
                piece = KEEP_ALIVE
                if coming.done():
                    result = coming.result()
                    if result is None:
                        await send({"type": "http.response.body", "body": b""})
                        return
                    piece, coming = result, None
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            for task in (gone, coming):
                if task is not None:
                    await dispose(task)
            await self.events.aclose()

    async def next(self) -> bytes | None:
        """The next event; None at the end. An error is an event too, and the last."""
        try:
            return await anext(self.events)
        except StopAsyncIteration:
            return None
        except Exception as error:  # headers are sent: the client is told in the stream
            await self.events.aclose()
            return event(shape(failure(error)))
