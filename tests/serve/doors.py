"""R13 and R19: what opens without a key, and what a client can write into the log."""

from __future__ import annotations

import json
import random
import re

from tests.serve import wire
from tests.serve.conftest import Running

CHAT = "/v1/chat/completions"
NASTY = [
    "\n", "\r\n", "\x1b[31m", "\x1b]0;x\x07", "\u202e", "\u2066", "\u2028", "\x00", "\x85",
    "\ufeff", '{"level": "info"}', "INFO 2026-01-01 [access] request id=req_0",
    '"', "\\", "%s%n", "\ud800",
]  # fmt: skip


def bearer(key: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"Authorization": f"Bearer {key}"}


def routes_and_keys(server: Running, key: str) -> dict[str, float]:
    """R13: every route without a key, with a wrong one, an empty one and the right one; what is not
    public is 401 without the right one.
    """
    told = server.get("/openapi.json", headers=bearer(key)).json()["paths"]
    routes = [(method, path) for path, methods in told.items() for method in methods]
    routes += [("post", "/"), ("get", "/openapi.json"), ("get", "/nothing"), ("delete", "/")]

    async def statuses(method: str, path: str) -> list[int]:
        found = []
        body = {} if method == "post" else None
        for headers in ({}, bearer("sk-wrong"), bearer(""), bearer(key)):
            answer = await wire.ask(server.port, path, body, method.upper(), **headers)
            found.append(answer.status)
            if answer.status >= 400 and method != "head":
                assert set(answer.json["error"]) == {"message", "type", "param", "code"}  # type: ignore[call-overload]
        return found

    for method, path in routes:
        path = re.sub(r"\{\w+\}", "1", path)
        without, wrong, empty, right = wire.run(statuses(method, path))  # type: ignore[misc]
        if path == "/health":
            assert {without, wrong, empty, right} == {200}
        else:
            assert (without, wrong, empty) == (401, 401, 401), path
            assert right not in (401, 403), path
    return {"routes": len(routes), "public": 1, "tried": 4 * len(routes)}


def forged_lines(server: Running, key: str, count: int, seed: int = 0) -> dict[str, float]:
    """R19: odd characters and endless ids in every field that the log tells: a line a request, all
    of it printable, no longer than a line should be.
    """
    random_ = random.Random(seed)
    before = len(server.lines())

    def odd(most: int = 8) -> str:
        return "x" + "".join(random_.choices(NASTY, k=random_.randint(1, most)))

    async def send() -> None:
        for i in range(count):
            text = odd() + "y" * random_.choice([0, 0, 50_000, 1_000_000])
            body = {"model": odd(3), "messages": [{"role": "user", "content": "a"}], odd(2): text}
            data = json.dumps(body).encode()  # escaped: half characters travel too
            path = (CHAT, "/v1/" + quoted(odd()), "/" + "z" * 20_000)[i % 3]
            ids = "a b\x1b[0m" + random_.choice(["q" * 9000, "\u202e", '" id="req_1'])
            await wire.ask(server.port, path, data, **bearer(key), X_Request_Id=ids)

    wire.run(send(), 900)
    server.wait_for(lambda: len(server.lines()) >= before + count)
    new = server.lines()[before:]
    assert len(new) == count
    for line in new:
        assert line.isprintable()
        assert len(line) < 2000
        fields = json.loads(line)
        assert re.fullmatch(r"req_[0-9a-f]{24}", fields["id"])
    return {"requests": count, "lines": len(new), "longest": max(map(len, new))}


def quoted(text: str) -> str:
    """A text as a path of a URL carries it."""
    return "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "surrogatepass"))
