"""Library code run for a request in a thread: it asks the engine as everybody does, and it stops
when the client goes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TypeVar

from fastapi import Request

from chatglm.serve.errors import ApiError, failure, invalid
from chatglm.serve.events import DONE, event, unless_gone
from chatglm.serve.record import Record
from chatglm.serve.registry import Registry, Served
from chatglm.serve.shared import GivenUp, SharedChatGLM

T = TypeVar("T")
Progress = Callable[[int, int], None]


class Errand:
    """One call of library code with a model of the server's.

    work: gets the model and what to call with (done, all) as it gets on.
    """

    def __init__(
        self,
        registry: Registry,
        served: Served,
        record: Record,
        work: Callable[[SharedChatGLM, Progress], Mapping[str, object]],
    ) -> None:
        self.work, self.threads = work, registry.threads
        self.model = registry.shared(served, record)
        self.loop = asyncio.get_running_loop()
        self.progress: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()

    def told(self, done: int, whole: int) -> None:
        """Pass on how far the work is; called in its thread."""
        self.loop.call_soon_threadsafe(self.progress.put_nowait, (done, whole))

    async def result(self) -> Mapping[str, object]:
        """What the work comes to."""
        future = asyncio.wrap_future(self.threads.submit(self.work, self.model, self.told))
        try:
            return await asyncio.shield(future)
        except GivenUp as error:
            raise ApiError(503, "the request was given up", retry_after=5) from error
        except Exception as error:
            raise explained(error) from error
        finally:
            self.model.give_up()
            self.progress.put_nowait(None)

    async def events(self) -> AsyncGenerator[bytes]:
        """Progress as it comes, then the result."""
        task = asyncio.ensure_future(self.result())
        try:
            while (step := await self.progress.get()) is not None:
                yield event({"object": "progress", "done": step[0], "total": step[1]})
            yield event(await task)
            yield DONE
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # it was told, or nobody is left to be told


def explained(error: Exception) -> ApiError:
    """What a client is told of an application's error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, FileNotFoundError):
        return ApiError(404, str(error), code="not_found")
    if isinstance(error, ImportError):
        return ApiError(503, str(error), code="not_installed")
    if isinstance(error, TimeoutError):  # its text names the file
        return ApiError(503, "another process holds the base; try again", retry_after=5)
    if isinstance(error, ValueError):
        return invalid(str(error))
    return failure(error)


async def run(request: Request, errand: Errand) -> Mapping[str, object]:
    """The errand's result, unless the client goes away."""
    return await unless_gone(request, errand.result())
