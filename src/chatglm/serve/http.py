"""The HTTP server: uvicorn with timeouts for reading, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from chatglm.serve.settings import Settings

ACCEPTED_AT_ONCE = 1
"""New connections that are taken in before everything else has its turn; asyncio takes all that
wait, and thousands that come at once would stop every stream for a second.
"""
WAITING_TO_BE_ACCEPTED = 2048
LEAST_PROGRESS = 1024
"""Bytes of a body that count as progress."""
LINGER = 5.0
"""Seconds that a refused body may still be read and thrown away, so that the client sees why."""
MAX_HEADER_BYTES = 64 << 10


class Protocol(H11Protocol):
    """HTTP/1.1 that waits for a request's head, and for more of its body, only so long."""

    header_timeout = 10.0
    body_timeout = 20.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.timer: asyncio.TimerHandle | None = None
        self.num_unanswered = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.arm(self.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self.disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.conn.their_state
        super().data_received(data)
        self.watch(before, len(data))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.arm(LINGER)

    def watch(self, before: object, num_bytes: int) -> None:
        """Set the timer by what is being waited for."""
        state = self.conn.their_state
        if state is h11.IDLE:
            # A head that has begun must end in time; between requests, keep-alive's timer runs.
            if self.timer is None and self.conn.trailing_data[0]:
                self.arm(self.header_timeout)
        elif state is h11.SEND_BODY:
            if before is not h11.SEND_BODY:
                self.num_unanswered = 0
                self.arm(self.body_timeout)
            elif self.conn.our_state not in (h11.DONE, h11.MUST_CLOSE):
                self.num_unanswered += num_bytes
                if self.num_unanswered >= LEAST_PROGRESS:
                    self.num_unanswered = 0
                    self.arm(self.body_timeout)
        else:
            self.disarm()

    def arm(self, seconds: float) -> None:
        """Close the connection after so long."""
        self.disarm()
        self.timer = self.loop.call_later(seconds, self.expire)

    def disarm(self) -> None:
        """Wait without limit."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def expire(self) -> None:
        """Close a connection that was too slow."""
        self.timer = None
        if not self.transport.is_closing():
            if self.conn.our_state is h11.IDLE and self.conn.their_state is h11.IDLE:
                self.transport.write(
                    b"HTTP/1.1 408 Request Timeout\r\n"
                    b"connection: close\r\ncontent-length: 0\r\n\r\n"
                )
            self.transport.close()
            self.loop.call_later(1.0, self.transport.abort)


class Server(uvicorn.Server):
    """Stops on SIGTERM and SIGINT in two steps: no more requests, and after the last one, the end.

    A second signal stops at once.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: Settings) -> None:
        super().__init__(config)
        self.app, self.settings = app, settings
        self.drain_task: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.stopped_by: int | None = None

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.app.state.error is not None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for listening in sockets or []:  # asyncio has given the kernel its own number
            listening.listen(WAITING_TO_BE_ACCEPTED)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.stopped_by is not None or self.loop is None:
            self.should_exit = self.force_exit = True
            return
        self.stopped_by = sig
        self.loop.call_soon_threadsafe(self.begin_to_drain)

    def begin_to_drain(self) -> None:
        """Take no more requests and wait for those that run."""
        self.app.state.is_draining = True
        self.drain_task = asyncio.ensure_future(self.drain())

    async def drain(self) -> None:
        """Let the server end once nothing runs, or it has waited long enough."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_timeout):
                while self.server_state.tasks:
                    await asyncio.sleep(0.05)
        self.should_exit = True

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.run(self.serve_until_stopped(sockets or listen(self.settings)))

    async def serve_until_stopped(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve; unlike uvicorn's own, no signal is raised again when all has ended well."""
        is_main = threading.current_thread() is threading.main_thread()
        handled = (signal.SIGTERM, signal.SIGINT) if is_main else ()
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            await self._serve(sockets)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.app.state.error is not None:
            raise self.app.state.error


def listen(settings: Settings) -> list[socket.socket]:
    """A listening socket for every address of the host; an OSError where the port is taken."""
    found = socket.getaddrinfo(
        settings.host.strip("[]"), settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return [
        socket.create_server(address, family=family, backlog=WAITING_TO_BE_ACCEPTED)
        for family, address in dict.fromkeys((family, address) for family, *_, address in found)
    ]


def make_server(app: FastAPI, settings: Settings) -> Server:
    """The server of an application; `run` serves until a signal stops it."""
    protocol = type(
        "TimedProtocol",
        (Protocol,),
        {"header_timeout": settings.header_timeout, "body_timeout": settings.body_timeout},
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=5,
        backlog=ACCEPTED_AT_ONCE,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )
    return Server(config, app, settings)
