"""HTTP by hand on asyncio: what a load test, a rude client and a fuzzer need."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response that was read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.body)  # type: ignore[no-any-return]


def head(method: str, path: str, length: int, **headers: str) -> bytes:
    """A request's head."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {length}"]
    given = {"content-type": "application/json", **headers}
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in given.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def encode(body: object) -> bytes:
    """A body as JSON; bytes stay as they are."""
    return body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of a response."""
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode("latin-1").split("\r\n")
    headers = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return int(first.split()[1]), headers


async def chunks(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """The body of a response in the pieces that it came in."""
    if headers.get("transfer-encoding") != "chunked":
        yield await reader.readexactly(int(headers.get("content-length", "0")))
        return
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)


async def ask(
    port: int, path: str, body: object = None, method: str = "POST", **headers: str
) -> Answer:
    """One request over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = b"" if body is None else encode(body)
        writer.write(head(method, path, len(data), **headers) + data)
        await writer.drain()
        status, told = await read_head(reader)
        return Answer(
            status=status, headers=told, body=b"".join([c async for c in chunks(reader, told)])
        )
    finally:
        writer.close()


async def events(port: int, path: str, body: object) -> AsyncIterator[dict[str, object]]:
    """The events of a stream up to [DONE]; an error if it ends before."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = encode(body)
        writer.write(head("POST", path, len(data)) + data)
        status, told = await read_head(reader)
        assert status == 200, (status, await reader.read(2000))
        buffer = b""
        async for chunk in chunks(reader, told):
            buffer += chunk
            *whole, buffer = buffer.split(b"\n\n")
            for event in whole:
                if event == b"data: [DONE]":
                    return
                if event.startswith(b"data: "):
                    yield json.loads(event[6:])
        raise AssertionError("the stream has ended without [DONE]")
    finally:
        writer.close()


def run(coroutine: object, seconds: float = 300.0) -> object:
    """What a coroutine comes to, in so many seconds at most."""
    return asyncio.run(asyncio.wait_for(coroutine, seconds))  # type: ignore[arg-type]
