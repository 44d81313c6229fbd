"""Ray Serve: two replicas behind one door, one of which is killed under load."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.cluster.nodes import Nodes
from tests.cluster.service import KEY, REPLICA, service


@pytest.fixture(scope="module")
def address(nodes: Nodes, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of two replicas."""
    log = tmp_path_factory.mktemp("service") / "log"
    with service(nodes, toy, log, "--replicas", "2") as address:
        yield address


def body(tokens: int, **more: object) -> dict[str, object]:
    return {
        "model": "toy", "prompt": "今天", "max_tokens": tokens, "temperature": 0,
        "ignore_eos": True, **more,
    }  # fmt: skip


def ask(address: str, tokens: int) -> str:
    answer = httpx.post(f"{address}/v1/completions", json=body(tokens), headers=KEY, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def number(address: str, name: str) -> float:
    """A number of the model's at the door."""
    text = httpx.get(f"{address}/metrics", headers=KEY, timeout=60).text
    (found,) = re.findall(rf'^chatglm:{name}{{model_name="toy"}} (\S+)$', text, re.M)
    return float(found)


def test_the_door_tells_what_the_engines_of_both_replicas_say(address: str) -> None:
    ask(address, 1)
    one = number(address, "prefix_cache_queries_total")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ask(address, 50), range(15)))
    assert number(address, "prefix_cache_queries_total") == 16 * one > 0
    for gauge in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert number(address, gauge) == 0


def listen(address: str, tokens: int, begun: threading.Semaphore) -> tuple[str, str]:
    """The text of a stream, and how it ended."""
    text = ""
    with httpx.stream(
        "POST", f"{address}/v1/completions", json=body(tokens, stream=True), headers=KEY,
        timeout=120,
    ) as answer:  # fmt: skip
        for line in answer.iter_lines():
            data = line.removeprefix("data: ")
            if not data or data == line:
                continue
            if data == "[DONE]":
                return text, "done"
            event = json.loads(data)
            if "error" in event:
                return text, event["error"]["code"]
            if not text:
                begun.release()
            text += event["choices"][0]["text"]
    return text, "cut off"


def test_what_had_not_begun_when_a_replica_was_killed_is_served_by_the_other(
    nodes: Nodes, address: str
) -> None:
    expected = ask(address, 400)
    first, second = nodes.workers(REPLICA)
    begun = threading.Semaphore(0)
    with ThreadPoolExecutor(32) as pool:
        streams = [pool.submit(listen, address, 400, begun) for _ in range(12)]
        for _ in streams:
            assert begun.acquire(timeout=60)
        whole = [pool.submit(ask, address, 400) for _ in range(12)]
        time.sleep(0.05)  # let them arrive
        queries = number(address, "prefix_cache_queries_total")
        assert queries > 0
        nodes.kill(second)
        late = [pool.submit(ask, address, 50) for _ in range(8)]
        assert number(address, "prefix_cache_queries_total") >= queries
        assert {answer.result(120) for answer in whole} == {expected}
        assert {answer.result(120) for answer in late} == {ask(address, 50)}
        ends = [stream.result(120) for stream in streams]
    assert {end for _, end in ends} == {"done", "replica_lost"}
    for text, end in ends:
        assert text == expected if end == "done" else expected.startswith(text)
    patience = time.monotonic() + 90
    while len(found := nodes.workers(REPLICA)) < 2:
        assert time.monotonic() < patience, "the lost replica was not replaced"
        time.sleep(0.2)
    assert number(address, "num_requests_running") == 0
    assert first in found
    assert second not in found


def test_the_door_keeps_what_it_keeps_without_a_cluster(address: str) -> None:
    with httpx.Client(base_url=address, timeout=60) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.post("/v1/completions", json=body(3)).status_code == 401
        answer = client.post("/v1/completions", json=body(3, nonsense=1), headers=KEY)
        assert answer.status_code == 400
        assert "nonsense" in answer.json()["error"]["message"]
        assert len(answer.headers.get_list("x-request-id")) == 1
        page = client.get("/")
        assert page.status_code == 200
        assert len(page.headers.get_list("content-security-policy")) == 1
        assert 'http_requests_total{status="401"} 1.0' in client.get("/metrics", headers=KEY).text
        with client.stream(
            "POST", "/v1/completions", json=body(500, stream=True), headers=KEY
        ) as stream:
            next(stream.iter_lines())
        # Both replicas have room for others at once: the one that hung up has left its place.
        assert client.post("/v1/completions", json=body(3), headers=KEY).status_code == 200
