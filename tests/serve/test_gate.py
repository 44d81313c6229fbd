"""Who may come in, with what, and what is written down about it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serve import doors, wire
from tests.serve.conftest import Running

from chatglm.serve import log
from chatglm.serve.gate import Pace
from chatglm.serve.record import Record

KEY, OTHER = "sk-first-Ключ-密钥", "sk-second"
BODY = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def locked(
    launch: Callable[..., Running], toy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Running:
    """A server with three keys, short limits, and its log in JSON."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text("# for the shop\nsk-third\n", encoding="utf-8")
    flags = ["--model", f"toy={toy}", "--api-key", KEY, "--api-key", OTHER]
    flags += ["--api-key-file", str(keys), "--log-format", "json"]
    flags += ["--allow-origin", "https://shop.example"]
    flags += ["--header-timeout", "1", "--body-timeout", "1", "--max-body-bytes", "100000"]
    return launch(*flags, key=OTHER)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_every_route_but_health_and_the_page_needs_a_key(locked: Running) -> None:
    assert doors.routes_and_keys(locked, OTHER)["routes"] > 15


def test_a_key_that_asks_too_often_is_told_when_to_ask_again(
    launch: Callable[..., Running], toy: Path
) -> None:
    flags = ["--api-key", OTHER, "--api-key", "sk-third", "--max-requests-per-minute", "3"]
    running = launch("--model", f"toy={toy}", *flags, key=OTHER)
    told = [running.get("/v1/models", headers=bearer(OTHER)) for _ in range(5)]
    assert [answer.status_code for answer in told[:3]] == [200, 200, 200]
    assert told[-1].status_code == 429
    assert 0 < int(told[-1].headers["retry-after"]) <= 20
    assert told[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert running.get("/v1/models", headers=bearer("sk-third")).status_code == 200
    refused = 'admission_rejections_total{reason="rate_limit_exceeded"} 2.0'
    numbers = running.get("/metrics", headers=bearer("sk-third")).text
    assert refused in numbers
    assert "queue_full" not in numbers
    assert running.get("/health").status_code == 200


def test_a_probe_while_models_load_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    log.access.propagate = True
    with caplog.at_level(logging.INFO, "chatglm.access"):
        for path in ("/health", "/v1/models"):
            log.report(Record(id="a", method="GET", path=path, client="", status=503))
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_a_pace_is_saved_up_for_a_minute() -> None:
    pace = Pace(6)
    assert [pace.wait("a", 0.0) for _ in range(7)] == [0.0] * 6 + [pytest.approx(10)]
    assert pace.wait("b", 0.0) == 0
    assert pace.wait("a", 10.1) == 0
    assert pace.wait("a", 10.1) > 0
    assert [pace.wait("a", 1000.0) for _ in range(7)].count(0.0) == 6


def test_the_page_is_public_and_nothing_beside_it(locked: Running) -> None:
    assert locked.get("/").status_code == 200
    for path in (
        "/../app.py",
        "/%2e%2e/app.py",
        "/..%2fapp.py",
        "/scripts/../../app.py",
        "//etc/passwd",
        "/scripts/",
        "/index.html/../../gate.py",
        "/%00",
        "/scripts/%5c..%5c..%5capp.py",
    ):
        answer = wire.run(wire.ask(locked.port, path, None, "GET", **bearer(OTHER)))
        assert isinstance(answer, wire.Answer)
        assert answer.status in (400, 404), path
        assert b"import" not in answer.body


def test_each_key_comes_in(locked: Running) -> None:
    for key in (OTHER, "sk-third"):
        assert locked.get("/v1/models", headers=bearer(key)).status_code == 200
    answer = wire.run(
        wire.ask(locked.port, "/v1/models", None, "GET", Authorization=f"Bearer {KEY}")
    )
    assert isinstance(answer, wire.Answer)
    assert answer.status in (200, 401)  # a header of other bytes than ASCII is clients' luck


def test_keys_prompts_and_replies_are_not_in_the_log(locked: Running) -> None:
    secret = {"messages": [{"role": "user", "content": "geheimes Wort"}], "max_tokens": 2}
    locked.post("/v1/chat/completions", secret, headers=bearer(OTHER))
    locked.post("/v1/chat/completions", secret, headers=bearer("sk-wrong"))
    locked.get("/v1/models?api_key=sk-second", headers=bearer(OTHER))
    locked.wait_for(lambda: "/v1/models" in locked.lines()[-1])
    text = locked.log.read_text("utf-8")
    for word in ("sk-second", "sk-wrong", "sk-third", "geheimes"):
        assert word not in text
    lines = [json.loads(line) for line in locked.lines() if line.startswith("{")]
    asked = [line for line in lines if line.get("route") == "POST /v1/chat/completions"]
    assert any(line["status"] == 200 and line["completion_tokens"] == 2 for line in asked)
    assert any(line["status"] == 401 for line in asked)


def test_an_operator_may_have_prompts_and_replies_in_the_log(
    launch: Callable[..., Running], toy: Path
) -> None:
    running = launch("--model", f"toy={toy}", "--log-content", "--log-format", "json")

    def told(path: str, body: dict[str, object]) -> tuple[dict[str, str], dict[str, str]]:
        """The answer and the line of the log."""
        before = len(running.lines())
        answer = running.post(path, body).json()

        def lines() -> list[str]:
            return [line for line in running.lines()[before:] if f'"POST {path}"' in line]

        running.wait_for(lambda: bool(lines()))
        return answer, json.loads(lines()[-1])

    # A reply of whole characters, so that it reads the same in one piece.
    good = running.post("/tokenize", {"prompt": "好"}).json()["tokens"][0]
    asked = {"messages": [{"role": "user", "content": "你好\n" * 200}], "max_tokens": 2}
    answer, line = told(
        "/v1/chat/completions", {**asked, "temperature": 0, "logit_bias": {str(good): 100}}
    )
    assert "你好\\n" * 199 in line["prompt"]
    assert line["reply"] == answer["choices"][0]["message"]["content"] == "好好"  # type: ignore[index]
    text = "今天天气很好。我们去公园散步。孩子们在草地上放风筝。"
    answer, line = told("/v1/summarize", {"text": text, "length": 12, "mode": "extractive"})
    assert text in line["input"]
    assert answer["text"] in line["output"]
    _, line = told("/v1/write", {"form": "continue", "topic": "从前", "length": 20, "seed": 1})
    assert "从前" in line["prompt"]
    assert int(line["completion_tokens"]) > 0
    _, line = told("/v1/embeddings", {"input": "你好"})
    assert line["prompt"] == "你好"
    assert int(line["prompt_tokens"]) > 0


def test_nothing_that_a_client_sends_can_forge_a_line_of_the_log(locked: Running) -> None:
    doors.forged_lines(locked, OTHER, 12)


def test_a_request_id_is_taken_over_and_given_back(locked: Running) -> None:
    told = locked.get("/v1/models", headers={**bearer(OTHER), "X-Request-Id": "my-id.7"})
    assert told.headers["x-request-id"] == "my-id.7"
    locked.wait_for(lambda: '"my-id.7"' in locked.log.read_text("utf-8"))


def test_a_body_over_the_limit_is_refused_before_it_is_sent(locked: Running) -> None:
    async def announce() -> wire.Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", locked.port)
        writer.write(wire.head("POST", "/v1/chat/completions", 10**12, **bearer(OTHER)))
        status, headers = await wire.read_head(reader)
        body = b"".join([c async for c in wire.chunks(reader, headers)])
        writer.close()
        return wire.Answer(status=status, headers=headers, body=body)

    async def trickle() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", locked.port)
        lines = wire.head("POST", "/v1/chat/completions", 0, **bearer(OTHER))
        writer.write(lines.replace(b"content-length: 0", b"transfer-encoding: chunked"))
        with pytest.MonkeyPatch.context():
            for _ in range(4):
                writer.write(b"8000\r\n" + b" " * 0x8000 + b"\r\n")
                await writer.drain()
        status, _ = await wire.read_head(reader)
        writer.close()
        return status

    answer = wire.run(announce())
    assert isinstance(answer, wire.Answer)
    assert answer.status == 413
    assert answer.json["error"]["code"] == "too_large"  # type: ignore[index]
    assert wire.run(trickle()) == 413


def test_a_head_that_is_too_large_is_refused(locked: Running) -> None:
    with socket.create_connection(("127.0.0.1", locked.port)) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 200_000)
        assert s.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))


def test_half_a_head_and_half_a_body_are_given_up(locked: Running) -> None:
    whole = wire.head("POST", "/v1/chat/completions", 100, **bearer(OTHER))
    keep = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    for begun in (b"", b"GET /hea", whole[:-2], whole, whole + b'{"mess', keep + whole[:30]):
        with socket.create_connection(("127.0.0.1", locked.port)) as s:
            s.settimeout(10)
            s.sendall(begun)
            while s.recv(4096):
                pass  # until the server closes


def test_other_hosts_and_other_pages_are_refused_where_there_is_no_key(toy_server: Running) -> None:
    port = toy_server.port

    async def status(**headers: str) -> int:
        return (await wire.ask(port, "/v1/chat/completions", BODY, **headers)).status

    async def raw(host: str) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /v1/models HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        found, _ = await wire.read_head(reader)
        writer.close()
        return found

    assert wire.run(status()) == 200
    for origin in ("https://evil.example", "null", f"http://localhost.evil:{port}", "http://["):
        assert wire.run(status(origin=origin)) == 403
    assert wire.run(raw("evil.example")) == 403
    assert wire.run(raw(f"rebound.example:{port}")) == 403
    assert wire.run(raw(f"localhost:{port}")) == 200
    answer = wire.run(wire.ask(port, "/health", None, "GET"))
    assert isinstance(answer, wire.Answer)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_one_other_page_may_be_allowed(locked: Running) -> None:
    server = locked

    async def tell() -> tuple[wire.Answer, wire.Answer, wire.Answer]:
        asks = {"access-control-request-method": "POST"}
        preflight = await wire.ask(
            server.port,
            "/v1/chat/completions",
            None,
            "OPTIONS",
            origin="https://shop.example",
            **asks,
        )
        call = {"origin": "https://shop.example", **bearer(OTHER)}
        called = await wire.ask(server.port, "/v1/chat/completions", BODY, **call)
        other = {"origin": "https://evil.example", **bearer(OTHER)}
        return preflight, called, await wire.ask(server.port, "/v1/models", None, "GET", **other)

    preflight, called, other = wire.run(tell())  # type: ignore[misc]
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
    assert called.status == 200
    assert called.headers["access-control-allow-origin"] == "https://shop.example"
    assert other.status == 403


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ({"temprature": 1}, "temprature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"chat_template": "{{ 7*7 }}"}, "chat_template"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs.x"),
    ],
)
def test_what_is_wrong_is_said_with_its_field(
    toy_server: Running, body: dict[str, object], param: str
) -> None:
    told = toy_server.post("/v1/chat/completions", {**BODY, **body})
    assert told.status_code == 400
    error = told.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["code"] is None or isinstance(error["code"], str)
    assert error["param"] == param
    assert param.split("[")[0].split(".")[0] in error["message"]


def test_fields_that_change_nothing_are_ignored(toy_server: Running) -> None:
    ignored = {
        "user": "a",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "safety_identifier": "x",
        "prompt_cache_key": "k",
        "verbosity": "low",
    }
    assert toy_server.post("/v1/chat/completions", {**BODY, **ignored}).status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"a"',
        b"\xff\xfe{}",
        b'{"messages": NaN}',
        b'{"a": 1e999}',
        b'{"messages": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\x00" * 10,
    ],
    ids=range(12),
)
def test_a_body_that_is_no_json_object_is_refused(toy_server: Running, data: bytes) -> None:
    headers = {"content-type": "application/json"}
    told = toy_server.post("/v1/chat/completions", content=data, headers=headers)
    assert told.status_code == 400
    assert told.json()["error"]["type"] == "invalid_request_error"


def test_what_is_not_there_is_told_in_the_same_shape(toy_server: Running) -> None:
    for answer, status in (
        (toy_server.get("/v1/files"), 404),
        (toy_server.get("/v1/chat/completions"), 405),
        (toy_server.post("/v1/chat/completions", {**BODY, "model": "gpt-4"}), 404),
        (toy_server.post("/v1/chat/completions", content=b"a=b"), 400),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_ten_megabytes_of_text_are_refused_with_both_numbers(toy_server: Running) -> None:
    body = {"messages": [{"role": "user", "content": "你好" * 1_700_000}]}
    told = toy_server.post("/v1/chat/completions", body)
    assert told.status_code == 400
    assert told.json()["error"]["code"] == "context_length_exceeded"
    numbers = re.findall(r"\d+", told.json()["error"]["message"])
    assert int(numbers[1]) == 512
    assert int(numbers[0]) > 512
