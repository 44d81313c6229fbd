"""One copy of the application in an actor of a Ray cluster."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.types import Message

from chatglm.cluster.engines import Told
from chatglm.generation.chat import ChatGLM
from chatglm.serve.app import create_app
from chatglm.serve.operations import condition
from chatglm.serve.record import Record
from chatglm.serve.settings import Settings

TOLD = "chatglm.told"
"""The type of the message that comes before the last: what there is to tell of the request."""
Load = Callable[[], Mapping[str, ChatGLM]]


class Replica:
    """Answers the requests that a door hands it; it asks for no key, since the door has."""

    async def __init__(self, load: Load, settings: Settings) -> None:  # type: ignore[misc]
        self.app = create_app(load(), settings)
        self.lifespan = self.app.router.lifespan_context(self.app)
        await self.lifespan.__aenter__()
        self.name = secrets.token_hex(8)

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Message]]:
        """The messages of the answer, as many at once as are there.

        Ending the iteration early is for the application what a client is that goes away.
        """
        outgoing: asyncio.Queue[Message | None] = asyncio.Queue()
        gone = asyncio.Event()
        incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if incoming:
                return incoming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self.app(scope, receive, outgoing.put)
            finally:
                outgoing.put_nowait(None)

        task = asyncio.ensure_future(run())
        held: list[Message] = []  # the last, until it is known what the log and metrics tell of it
        try:
            ended = False
            while not ended:
                messages = [await outgoing.get()]
                while not outgoing.empty():
                    messages.append(outgoing.get_nowait())
                ended = messages[-1] is None
                some = held + [message for message in messages if message is not None]
                held = [some.pop()] if some and not ended and is_last(some[-1]) else []
                if ended:
                    some.insert(0, told(scope))
                if some:
                    yield some
        finally:
            gone.set()
            await asyncio.wait({task})
        task.result()

    def numbers(self) -> Told:
        """What its engines say now."""
        return self.name, self.app.state.metrics.engines()

    def check_health(self) -> None:
        """An error where the engine has failed; Ray then puts another replica in this one's
        place.
        """
        if condition(self.app.state) == "dead":
            raise RuntimeError("the engine has failed")


def is_last(message: Message) -> bool:
    """Whether an answer ends with this message."""
    return message["type"] == "http.response.body" and not message.get("more_body", False)


def told(scope: dict[str, Any]) -> Message:
    """What log and metrics of the door tell of a request that is over."""
    record: Record = scope["chatglm.record"]
    return {"type": TOLD, "fields": record.of_model(), "finishes": record.finishes}
