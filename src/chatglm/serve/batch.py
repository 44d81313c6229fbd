"""Files of requests in OpenAI's batch format, answered by the application without a network."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.types import Message

from chatglm.serve.record import Record

URLS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
    *("/v1/fill", "/v1/summarize", "/v1/translate", "/v1/write"),
)


class BatchLine(BaseModel):
    """One line of the input."""

    model_config = ConfigDict(extra="forbid")
    custom_id: str
    method: str = "POST"
    url: str
    body: dict[str, object]


class InvalidBatch(ValueError):
    """A line of the input that is no request: which file, which line, what to do."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a batch."""

    done: int = 0
    failed: int = 0
    tokens: int = 0


def read_lines(path: Path) -> Iterator[BatchLine]:
    """The requests of a file; an error names the first line that is none."""
    seen: dict[str, int] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            place = f"{path} line {number}"
            try:
                line = BatchLine.model_validate_json(text)
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(map(str, first["loc"]))
                raise InvalidBatch(
                    f"{place}: {field or 'the line'}: {first['msg']}; expected "
                    '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", '
                    '"body": {…}}'
                ) from error
            if line.method != "POST" or line.url not in URLS:
                raise InvalidBatch(
                    f"{place}: {line.method} {line.url[:100]} is not served in batches; use POST "
                    f"and one of {', '.join(URLS)}"
                )
            if line.body.get("stream"):
                raise InvalidBatch(f"{place}: a batch has no streams; leave stream out")
            if (before := seen.setdefault(line.custom_id, number)) != number:
                raise InvalidBatch(
                    f"{place}: custom_id {line.custom_id[:100]!r} is that of line {before} too; "
                    "give each request its own"
                )
            yield line


def already_done(path: Path) -> set[str]:
    """The ids that an output file answers. Its half line and failures of the server's, which are to
    be tried again, are taken out of it.
    """
    if not path.exists():
        return set()
    kept: dict[str, str] = {}
    dropped = False
    with path.open(encoding="utf-8") as file:
        for text in file:
            try:
                line = json.loads(text)
                is_kept = text.endswith("\n") and line["response"]["status_code"] < 500
                name = str(line["custom_id"])
            except (ValueError, KeyError, TypeError):
                is_kept, name = False, ""
            dropped |= not is_kept
            if is_kept:
                kept[name] = text
    if dropped:
        beside = path.with_name(f"{path.name}.part")
        beside.write_text("".join(kept.values()), encoding="utf-8")
        os.replace(beside, path)
    return set(kept)


async def run_batch(
    app: FastAPI,
    source: Path,
    output: Path,
    *,
    width: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Answer what the output does not answer yet, so many requests at a time; a line for each is
    added as soon as it is there.
    """
    known = already_done(output)
    lines = (line for line in read_lines(source) if line.custom_id not in known)
    statuses: list[int] = []
    tokens = 0

    async def some() -> None:
        nonlocal tokens
        for line in lines:
            record, status, body = await answer(app, line)
            file.write(as_line(line, record, status, body))
            file.flush()
            statuses.append(status)
            tokens += sum(len(job.tokens) for job in record.jobs)
            progress(len(known) + len(statuses))
            if not app.state.registry.worker.is_alive:
                raise RuntimeError("the engine has failed; run the command again to go on")

    with output.open("a", encoding="utf-8", newline="\n") as file:
        async with app.router.lifespan_context(app), asyncio.TaskGroup() as group:
            for _ in range(width):
                group.create_task(some())
    failed = sum(status >= 400 for status in statuses)
    return Outcome(done=len(statuses), failed=failed, tokens=tokens)


async def answer(app: FastAPI, line: BatchLine) -> tuple[Record, int, object]:
    """The application's answer to one request: what is known of it, its status, its body."""
    data = json.dumps(line.body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": line.url,
        "raw_path": line.url.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": None,
    }
    incoming: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if incoming:
            return incoming.pop()
        await asyncio.Event().wait()  # nobody hangs up
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    record: Record = scope["chatglm.record"]  # type: ignore[assignment]
    return record, int(sent[0]["status"]), json.loads(body)


def as_line(line: BatchLine, record: Record, status: int, body: object) -> str:
    """A line of the output."""
    told = {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": line.custom_id,
        "response": {"status_code": status, "request_id": record.id, "body": body},
        "error": None,
    }
    return json.dumps(told, ensure_ascii=False) + "\n"
