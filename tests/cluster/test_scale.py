"""Ray Serve's autoscaling: a second replica where many requests run."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
from tests.cluster.nodes import Nodes
from tests.cluster.service import KEY, REPLICA, service


def test_a_second_replica_comes_while_many_requests_run(
    nodes: Nodes, toy: Path, tmp_path: Path
) -> None:
    flags = ["--replicas", "1", "--max-replicas", "2", "--max-num-seqs", "1"]
    with service(nodes, toy, tmp_path / "log", *flags) as address:
        (first,) = nodes.workers(REPLICA)
        body = {"model": "toy", "prompt": "今天", "max_tokens": 300, "ignore_eos": True}
        body["temperature"] = 0
        ends = time.monotonic() + 240

        def ask_until_there_are_two() -> set[str]:
            found = set()
            while len(nodes.workers(REPLICA)) < 2:
                assert time.monotonic() < ends, "no second replica came"
                answer = httpx.post(
                    f"{address}/v1/completions", json=body, headers=KEY, timeout=120
                )
                assert answer.status_code == 200, answer.text
                found.add(answer.json()["choices"][0]["text"])
            return found

        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(ask_until_there_are_two) for _ in range(6)]
            texts = set().union(*(answer.result(300) for answer in asked))
        assert len(texts) == 1
        assert first in nodes.workers(REPLICA)
