"""Goals of reliability, each a function of how often it is tried; the whole counts are the
benchmark's, the tests' are a tenth or less.

What a goal measured comes back as numbers for the table; what must hold is asserted on the way.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import socket
import statistics
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.serve import wire
from tests.serve.conftest import ROOT, Running

Numbers = dict[str, float]
CHAT = "/v1/chat/completions"


def chat(text: str = "你好", **options: object) -> dict[str, object]:
    """A request for a reply."""
    return {"messages": [{"role": "user", "content": text}], **options}


def percentile(values: list[float], share: float) -> float:
    """The value below which so large a share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def resident(server: Running) -> float:
    """Megabytes that the server's process holds."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def open_files(server: Running) -> int:
    """Open files of the server's process."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def is_error(answer: wire.Answer) -> bool:
    """Whether an answer is an error in OpenAI's shape."""
    error = answer.json.get("error")
    return isinstance(error, dict) and set(error) == {"message", "type", "param", "code"}


async def together(count: int, width: int, work: Callable[[int], Awaitable[object]]) -> None:
    """`work` of 0 to count, so many at a time."""
    numbers = iter(range(count))

    async def some() -> None:
        for i in numbers:
            await work(i)

    await asyncio.gather(*(some() for _ in range(width)))


# R2


def spoil(random_: random.Random, body: dict[str, object]) -> bytes:
    """A body with something wrong in it."""
    odd: list[object] = [
        None, True, -1, 0, 2**63, 10**40, 1e308, -0.0, "", "\x00", "a" * 5000, "\ufeff\u202e",
        [], {}, [[]], [None] * 9, {"a": {"b": []}}, "今天" * 99, [1, "a"], 3.5, "1",
    ]  # fmt: skip
    kind = random_.randrange(8)
    if kind == 0:
        data = bytearray(wire.encode(body))
        for _ in range(random_.randint(1, 6)):
            data[random_.randrange(len(data))] = random_.randrange(256)
        return bytes(data)
    if kind == 1:
        data = bytearray(wire.encode(body))
        return bytes(data[: random_.randrange(len(data))])
    if kind == 2:
        depth = random_.choice([50, 5000, 100_000])
        key = random_.choice(["messages", "metadata", "tools", "x"])
        return b'{"%s":' % key.encode() + b"[" * depth + b"]" * depth + b"}"
    if kind == 3 and random_.random() < 0.05:
        name = random_.choice(["prompt", "messages", "stop", "tools", "logit_bias"])
        return json.dumps({**body, name: [random_.randrange(99)] * 1_000_000}).encode()
    if kind == 4:
        return wire.encode({**body, random_.choice(["ｎ", "n ", "__proto__", "a" * 999]): 1})
    if kind == 5:
        text = wire.encode(body).replace("你好".encode(), b"\\ud83d\\u0000" + b"\xed\xa0\x80")
        return text if random_.random() < 0.5 else text.replace(b"\xed\xa0\x80", b"")
    spoiled = json.loads(wire.encode(body))
    here = spoiled
    while True:  # somewhere in the body, something of another type
        key = random_.choice(list(here) if isinstance(here, dict) else range(len(here)))
        if isinstance(here[key], dict | list) and here[key] and random_.random() < 0.6:
            here = here[key]
            continue
        here[key] = random_.choice(odd)
        return wire.encode(spoiled)


def bodies() -> list[tuple[str, dict[str, object]]]:
    """One good body for each endpoint, with every field."""
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    full = chat(
        model="toy", max_tokens=2, temperature=0.5, top_p=0.9, n=1, stop=["。"], seed=1,
        logit_bias={"5": 1}, logprobs=True, top_logprobs=2, presence_penalty=0.1,
        tools=[{"type": "function", "function": function}], tool_choice="auto",
        response_format={"type": "text"}, stream=False, user="u", metadata={"a": "b"},
    )  # fmt: skip
    text = {"prompt": "你好", "max_tokens": 2, "echo": True, "logprobs": 2, "n": 1, "stop": "a"}
    schema = {"name": "s", "schema": {"type": "object", "properties": {"a": {"maxLength": 2}}}}
    shaped = {"response_format": {"type": "json_schema", "json_schema": schema}, "max_tokens": 4}
    return [
        (CHAT, full),
        (CHAT, chat(**shaped)),
        ("/v1/completions", text),
        ("/v1/completions", {"prompt": [[1, 2], [3]], "max_tokens": 1, "suffix": None}),
        ("/v1/embeddings", {"input": ["你好", "a"], "encoding_format": "base64"}),
        ("/v1/responses", {"input": [{"role": "user", "content": "你好"}], "max_output_tokens": 2}),
        ("/v1/fill", {"text": "今天[MASK]。", "max_tokens": 2}),
        ("/tokenize", {"prompt": "你好"}),
        ("/detokenize", {"tokens": [1, 2, 3]}),
        ("/", {"prompt": "你好", "history": [["a", "b"]], "max_length": 32}),
    ]


def mutated_requests(server: Running, count: int, seed: int = 0) -> Numbers:
    """R2: spoiled requests get an error below 500, the server stays small and quick."""
    random_ = random.Random(seed)
    good = bodies()
    statuses: dict[int, int] = {}
    slowest = 0.0

    async def one(i: int) -> None:
        path, body = good[i % len(good)]
        data = spoil(random_, body)
        answer = await wire.ask(server.port, path, data)
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        assert answer.status < 500, (path, data[:400], answer.body[:400])
        if answer.status >= 400:
            assert is_error(answer), (path, data[:200], answer.body[:400])

    async def probe() -> None:
        nonlocal slowest
        while True:
            start = time.perf_counter()
            assert (await wire.ask(server.port, "/health", None, "GET")).status == 200
            slowest = max(slowest, time.perf_counter() - start)
            await asyncio.sleep(0.5)

    async def all_of_them() -> None:
        await together(count // 10, 4, one)  # the first few warm up what is cached
        before.append(resident(server))
        watch = asyncio.ensure_future(probe())
        await together(count, 4, one)
        watch.cancel()

    before: list[float] = []
    wire.run(all_of_them(), 3600)
    grown = resident(server) - before[0]
    refused = sum(n for status, n in statuses.items() if status >= 400)
    return {
        "requests": sum(statuses.values()), "refused": refused, "grown_mb": round(grown, 1),
        "slowest_health_s": round(slowest, 3),
    }  # fmt: skip


# R3


def streams_at_once(server: Running, count: int, seconds: float) -> Numbers:
    """R3: many streams at once, again and again; each is what it is alone."""

    def body(i: int) -> dict[str, object]:
        text = f"第{i}个问题：今天天气{'很' * (i % 7)}好"
        return chat(text, max_tokens=12 + i % 23, seed=i, temperature=0.9, stream=True)

    async def read(i: int, gaps: list[float] | None = None) -> str:
        text, finish, last = "", None, None
        async for event in wire.events(server.port, CHAT, body(i)):
            now = time.perf_counter()
            if gaps is not None and last is not None:
                gaps.append(now - last)
            last = now
            choice = event["choices"][0]  # type: ignore[index]
            text += choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
        assert finish in ("stop", "length")
        return text

    async def all_of_them() -> Numbers:
        alone = [await read(i) for i in range(count)]
        gaps: list[float] = []
        rounds = 0
        start = time.perf_counter()
        while not rounds or time.perf_counter() - start < seconds:
            texts = await asyncio.gather(*(read(i, gaps) for i in range(count)))
            assert list(texts) == alone
            rounds += 1
        return {
            "streams": count, "rounds": rounds, "lost": 0, "changed": 0,
            "gap_p99_s": round(percentile(gaps, 0.99), 3),
        }  # fmt: skip

    return wire.run(all_of_them(), seconds + 1800)  # type: ignore[return-value]


# R4


def hang_ups(server: Running, count: int, seed: int = 0) -> Numbers:
    """R4: clients that leave at any moment, in any way; nothing of theirs is left."""
    random_ = random.Random(seed)
    quiet = idle_numbers(server)
    before = server.number("requests_cancelled_total")
    finished = server.number("request_success_total")
    lines = len(chat_lines(server))

    async def one(i: int) -> None:
        body = chat(f"说{i}", max_tokens=400, stream=bool(i % 2), ignore_eos=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        data = wire.encode(body)
        writer.write(wire.head("POST", CHAT, len(data)) + data)
        await writer.drain()
        await asyncio.sleep(random_.random() * 0.15)
        how = i % 3
        if how == 0:  # RST
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif how == 1:  # half-close
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 20)  # the server hangs up in turn
        writer.close()

    wire.run(together(count, 16, one), 900)
    start = time.perf_counter()
    server.wait_for(lambda: idle_numbers(server) == quiet)
    freed = time.perf_counter() - start
    server.wait_for(lambda: len(chat_lines(server)) >= lines + count)
    begun = [line for line in chat_lines(server)[lines:] if "finish=" in line]
    cancelled = server.number("requests_cancelled_total") - before
    assert cancelled == sum("finish=cancelled" in line for line in begun)
    assert cancelled + server.number("request_success_total") - finished == len(begun)
    return {"hang_ups": count, "cancelled": cancelled, "left": 0, "freed_after_s": round(freed, 3)}


def chat_lines(server: Running) -> list[str]:
    """The log's lines about chats."""
    return [line for line in server.lines() if f'"POST {CHAT}"' in line]


def idle_numbers(server: Running) -> tuple[float, float]:
    """Requests in the engine, running and waiting."""
    return server.number("num_requests_running"), server.number("num_requests_waiting")


# R5


def slow_clients(server: Running, count: int, seconds: float = 5.0) -> Numbers:
    """R5: sockets that send half a head or half a body are closed; others hardly notice.

    The times of normal requests are those of the whole while that the sockets are there, their
    coming all at once included, beside as long without them.
    """

    async def normal(until: Callable[[], bool]) -> list[float]:
        found = []
        while not until():
            start = time.perf_counter()
            assert (await wire.ask(server.port, CHAT, chat(max_tokens=4))).status == 200
            found.append(time.perf_counter() - start)
            await asyncio.sleep(0.02)
        return found

    async def all_of_them() -> tuple[list[float], list[float], dict[str, list[float]]]:
        start = time.perf_counter()
        alone = await normal(lambda: time.perf_counter() - start > seconds)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.serve.slow", str(server.port), str(count),
            stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        slow = asyncio.ensure_future(process.communicate())
        beside = await normal(slow.done)
        return alone, beside, json.loads((await slow)[0])

    alone, beside, took = wire.run(all_of_them(), 120)  # type: ignore[misc]
    assert len(took["head"]) + len(took["body"]) == count
    before, during = percentile(alone, 0.95), percentile(beside, 0.95)
    return {
        "sockets": count, "head_closed_s": round(max(took["head"]), 1),
        "body_closed_s": round(max(took["body"]), 1), "p95_alone_ms": round(before * 1000, 1),
        "p95_ms": round(during * 1000, 1), "p95_ratio": round(during / before, 2),
        "slowest_ms": round(max(beside) * 1000, 1),
    }  # fmt: skip


# R6


def too_large(server: Running, count: int) -> Numbers:
    """R6: 10 MB of text is refused with both numbers, a body over the limit before it is sent, a
    head over 64 KB at once.
    """
    texts = {"chinese": "今天天气很好，" * 480_000, "english": "hello world " * 833_000}
    times: dict[str, list[float]] = {name: [] for name in texts}

    async def long_prompts() -> None:
        for name, text in texts.items():
            data = wire.encode(chat(text))
            assert len(data) > 9_900_000
            for _ in range(count):
                start = time.perf_counter()
                answer = await wire.ask(server.port, CHAT, data)
                times[name].append(time.perf_counter() - start)
                assert answer.status == 400
                error = answer.json["error"]
                assert error["code"] == "context_length_exceeded"  # type: ignore[index]
                assert len(re.findall(r"\d+", error["message"])) == 2  # type: ignore[index]

    async def only_announced() -> float:
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(wire.head("POST", CHAT, 10**12))
        status, _ = await wire.read_head(reader)
        writer.close()
        assert status == 413
        return time.perf_counter() - start

    async def large_head() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 200_000)
        status, _ = await wire.read_head(reader)
        writer.close()
        return status

    wire.run(long_prompts())
    announced = wire.run(only_announced())
    assert wire.run(large_head()) in (400, 431)
    assert isinstance(announced, float)
    medians = {f"{name}_ms": round(statistics.median(t) * 1000, 1) for name, t in times.items()}
    return {"tried": count, **medians, "announced_ms": round(announced * 1000, 1)}


# R7


LONG = 200
"""Tokens of a reply that goes on for a while; they fit the smallest context here."""


def long_chat(i: int) -> dict[str, object]:
    """A chat that goes on for a while."""
    return chat(f"{i}", max_tokens=LONG, ignore_eos=True)


def full_queue(server: Running, limit: int, more: int) -> Numbers:
    """R7: beyond the queue's limit a request is refused at once; those within go on."""
    times: list[float] = []

    async def filled() -> list[asyncio.Task[wire.Answer]]:
        tasks = [
            asyncio.create_task(wire.ask(server.port, CHAT, long_chat(i))) for i in range(limit)
        ]
        while sum(await asyncio.to_thread(idle_numbers, server)) < limit:
            if any(task.done() for task in tasks):  # all have come long since
                break
        return tasks

    async def knock() -> None:
        start = time.perf_counter()
        answer = await wire.ask(server.port, CHAT, long_chat(0))
        if answer.status == 200:  # a place had become free
            return
        times.append(time.perf_counter() - start)
        assert answer.status == 429, answer.body
        assert int(answer.headers["retry-after"]) >= 1
        assert is_error(answer)

    async def all_of_them() -> None:
        while len(times) < more:
            tasks = await filled()
            while len(times) < more and not any(task.done() for task in tasks):
                await knock()
            for answer in await asyncio.gather(*tasks):
                assert answer.status == 200, answer.body
                assert answer.json["usage"]["completion_tokens"] == LONG  # type: ignore[index]

    wire.run(all_of_them(), 1800)
    return {
        "refused": len(times), "median_ms": round(statistics.median(times) * 1000, 1),
        "p95_ms": round(percentile(times, 0.95) * 1000, 1),
    }  # fmt: skip


def drained(server: Running, count: int) -> Numbers:
    """R7: SIGTERM with many running; all end well, none more is taken, then the server ends."""

    async def all_of_them() -> int:
        refused = 0
        running = [
            asyncio.ensure_future(wire.ask(server.port, CHAT, long_chat(i))) for i in range(count)
        ]
        while sum(await asyncio.to_thread(idle_numbers, server)) < count:
            if any(task.done() for task in running):  # all have come long since
                break
        server.process.terminate()
        while (health := await wire.ask(server.port, "/health", None, "GET")).status == 200:
            await asyncio.sleep(0.01)
        assert health.json == {"status": "draining"}
        late = await wire.ask(server.port, CHAT, chat())
        assert late.status == 503
        assert "retry-after" in late.headers
        refused += 1
        for answer in await asyncio.gather(*running):
            assert answer.status == 200
            assert answer.json["usage"]["completion_tokens"] == LONG  # type: ignore[index]
        return refused

    refused = wire.run(all_of_them(), 120)
    assert server.process.wait(30) == 0
    return {"running": count, "lost": 0, "late_refused": refused}  # type: ignore[dict-item]


# R14


def bombs() -> dict[str, object]:
    """Schemas that are meant to hurt."""
    deep: object = {"type": "string"}
    for _ in range(5000):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    return {
        "nested quantifiers": {"type": "string", "pattern": "(a+)+$"},
        "nested counts": {"type": "string", "pattern": "((a{0,999}){0,999}){0,999}"},
        "10^4 alternatives": {"enum": [f"{i}" * 5 for i in range(10_000)]},
        "10^4 branches": {"anyOf": [{"const": i} for i in range(10_000)]},
        "10^4 properties": {"type": "object", "properties": {f"p{i}": {} for i in range(10_000)}},
        "itself": {"$ref": "#"},
        "a loop": {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 2}}},
        "elsewhere": {"$ref": "http://127.0.0.1:1/schema"},
        "5 MB": {"type": "object", "description": "a" * 5_000_000},
        "deep": deep,
        "product": {"allOf": [{"anyOf": [{"minLength": i} for i in range(9)]}] * 30},
        "long": {"type": "string", "minLength": 10**9},
    }  # fmt: skip


def grammar_bombs(server: Running) -> Numbers:
    """R14: each is refused, or answered, and the server goes on meanwhile."""
    slowest = 0.0
    refused = 0
    for name, schema in bombs().items():
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        text = json.dumps(chat(max_tokens=3, response_format=form)) if name != "deep" else ""
        if not text:
            inner = '{"type":"object","properties":{"a":' * 5000 + "{}" + "}}" * 5000
            text = json.dumps(chat(response_format={**form, "json_schema": {"name": "x"}}))
            text = text.replace('"name": "x"', f'"name": "x", "schema": {inner}')
        start = time.perf_counter()
        answer = wire.run(wire.ask(server.port, CHAT, text.encode()), 60)
        slowest = max(slowest, time.perf_counter() - start)
        assert isinstance(answer, wire.Answer)
        assert answer.status in (200, 400), (name, answer.body[:300])
        if answer.status == 400:
            assert is_error(answer), name
            refused += 1
    return {"bombs": len(bombs()), "refused": refused, "slowest_s": round(slowest, 3)}


SHAPES: list[dict[str, object]] = [
    {
        "type": "object",
        "properties": {
            "名": {"type": "string", "maxLength": 5},
            "数": {"type": "integer", "minimum": -99, "maximum": 99},
            "表": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        },
        "required": ["名", "数", "表"],
        "additionalProperties": False,
    },
    {"enum": ["晴", "多云", "雨", None, 3]},
    {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 4},
    {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"},
    {
        "anyOf": [
            {"type": "null"},
            {"type": "object", "properties": {}, "additionalProperties": False},
        ]
    },
]


def constrained_samples(server: Running, count: int) -> Numbers:
    """R14: replies of random weights in a given form are always valid."""
    good = 0

    async def one(i: int) -> None:
        nonlocal good
        schema = SHAPES[i % len(SHAPES)]
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        body = chat(f"{i}", seed=i, temperature=1.5, max_tokens=200, response_format=form)
        answer = await wire.ask(server.port, CHAT, body)
        assert answer.status == 200, answer.body
        choice = answer.json["choices"][0]  # type: ignore[index]
        assert choice["finish_reason"] == "stop", choice
        value = json.loads(choice["message"]["content"])
        assert fits(value, i % len(SHAPES)), value
        good += 1

    wire.run(together(count, 8, one), 1800)
    return {"samples": count, "valid": good}


def fits(value: object, shape: int) -> bool:
    """Whether a value is of a shape, told by hand."""
    if shape == 0:
        assert isinstance(value, dict)
        return (
            list(value) == ["名", "数", "表"] and len(value["名"]) <= 5 and abs(value["数"]) <= 99
        )
    if shape == 1:
        return value in ("晴", "多云", "雨", None, 3)
    if shape == 2:
        return isinstance(value, list) and 2 <= len(value) <= 4 and set(value) <= {1, 2}
    if shape == 3:
        return isinstance(value, str) and len(value) == 7 and value[4] == "-"
    return value is None or value == {}


# R17


def fill_cache(server: Running) -> Numbers:
    """Have the server read different prompts until its memory no longer grows: keys and values take
    theirs as they are needed, up to the room that they have.
    """
    random_ = random.Random(0)
    length = server.get("/v1/models").json()["data"][0]["max_model_len"] - 2
    before = resident(server)

    async def one(_: int) -> None:
        prompt = [random_.randrange(300) for _ in range(length)]
        answer = await wire.ask(server.port, "/v1/completions", {"prompt": prompt, "max_tokens": 1})
        assert answer.status == 200, answer.body

    grown = [before]
    while len(grown) < 3 or grown[-1] - grown[-2] > 1:
        wire.run(together(32, 4, one), 600)
        grown.append(resident(server))
    return {"cache_mb": round(grown[-1] - before, 1)}


def soak(server: Running, seconds: float) -> Numbers:
    """R17: mixed work for a while; memory and open files come to rest."""
    memory: list[tuple[float, float]] = []
    files: list[int] = []
    asked = itertools.count()

    async def one(_: int) -> None:
        i = next(asked)
        path, body = bodies()[i % 10]
        answer = await wire.ask(server.port, path, body)
        assert answer.status == 200, (path, answer.body)
        if i % 5 == 0:
            async for _event in wire.events(
                server.port, CHAT, chat(f"{i}", max_tokens=5, stream=True)
            ):
                if i % 10 == 0:
                    break

    async def all_of_them() -> None:
        start = time.perf_counter()
        while (now := time.perf_counter() - start) < seconds:
            await together(40, 4, one)
            memory.append((now, resident(server)))
            files.append(open_files(server))

    wire.run(all_of_them(), seconds + 600)
    late = memory[len(memory) // 2 :]
    slope = 0.0
    if len(late) > 1:
        slope = statistics.linear_regression(*zip(*late, strict=True)).slope * 3600
    return {
        "requests": next(asked), "mb_per_hour": round(slope, 1),
        "grown_mb": round(memory[-1][1] - memory[len(memory) // 2][1], 2),
        "open_files_grown": files[-1] - files[len(files) // 2],
    }  # fmt: skip
