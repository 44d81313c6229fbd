"""Clients that send half of a request and wait, in a process of their own: what they cost is the
server's then, not the measuring client's.

    python -m tests.serve.slow PORT COUNT

Prints, as JSON, after how many seconds each was closed, by what it had sent.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from tests.serve import wire


async def wait_in_vain(port: int, count: int) -> dict[str, list[float]]:
    """Seconds until each socket with half a head, and each with half a body, was closed."""
    whole = wire.head("POST", "/v1/chat/completions", 1000)
    took: dict[str, list[float]] = {"head": [], "body": []}

    async def one(kind: str, data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        start = time.perf_counter()
        writer.write(data)
        try:
            while await reader.read(4096):
                pass
        except ConnectionError:
            pass
        took[kind].append(time.perf_counter() - start)
        writer.close()

    kinds = {"head": whole[:-4], "body": whole + b'{"messages": '}
    await asyncio.gather(*(one(k, kinds[k]) for _ in range(count // 2) for k in kinds))
    return took


if __name__ == "__main__":
    print(json.dumps(asyncio.run(wait_in_vain(int(sys.argv[1]), int(sys.argv[2])))))
