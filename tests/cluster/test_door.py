"""The door before replicas, without Ray: what is lost, what is repeated, what is passed on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.types import Message

from chatglm.cluster.connect import SECRET
from chatglm.cluster.door import TRIES, make_door
from chatglm.cluster.engines import Engines
from chatglm.cluster.replica import Replica
from chatglm.generation.chat import ChatGLM
from chatglm.serve.record import Record
from chatglm.serve.settings import Settings

KEY = {"Authorization": "Bearer sesame", "Origin": "http://127.0.0.1"}
BODY = {
    "model": "toy", "prompt": "今天", "max_tokens": 12, "temperature": 0, "ignore_eos": True,
}  # fmt: skip


class Lost(Exception):
    """What stands for the death of a replica."""


class Answer:
    """The answer of a replica that dies after so many messages."""

    def __init__(self, messages: AsyncIterator[list[Message]], dies_after: int | None) -> None:
        self.messages, self.dies_after = messages, dies_after

    async def __aiter__(self) -> AsyncIterator[list[Message]]:
        count = 0
        async for messages in self.messages:
            for message in messages:
                if count == self.dies_after:
                    raise Lost
                yield [message]
                count += 1

    def cancel(self) -> None:
        pass


class Answers:
    """One replica; of those that answer, the first die as they are told."""

    def __init__(self, replica: Replica, deaths: list[int | None]) -> None:
        self.replica, self.deaths = replica, deaths
        self.scopes: list[dict[str, Any]] = []
        self.records: list[Record] = []

    def remote(self, scope: dict[str, Any], body: bytes, /) -> Answer:
        self.scopes.append(scope)
        death = self.deaths.pop(0) if self.deaths else None
        return Answer(self.replica.answer(scope, body), death)


Ask = Callable[[Answers, httpx.AsyncClient], Awaitable[None]]


@pytest.fixture
def behind_a_door(toy: Path) -> Callable[..., None]:
    """Runs questions to a door whose replicas die as they are told."""

    async def run(ask: Ask, deaths: list[int | None]) -> None:
        inside = Settings(host="0.0.0.0")
        replica = Replica.__new__(Replica)
        await replica.__init__(lambda: {"toy": ChatGLM.from_pretrained(str(toy))}, inside)
        answers = Answers(replica, deaths)
        settings = Settings(api_keys=("sesame",))
        engines = Engines(lambda: [replica.numbers()])
        app = make_door(answers, (Lost,), settings, engines, report=answers.records.append)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await ask(answers, client)
        assert all(s.engine.num_running == 0 for s in replica.app.state.registry.served.values())
        await replica.lifespan.__aexit__(None, None, None)

    return lambda ask, deaths: asyncio.run(run(ask, deaths))


def test_what_had_not_begun_is_asked_of_another(behind_a_door: Callable[..., None]) -> None:
    async def ask(answers: Answers, client: httpx.AsyncClient) -> None:
        lost_twice = await client.post("/v1/completions", json=BODY, headers=KEY)
        assert len(answers.scopes) == 3
        again = await client.post("/v1/completions", json=BODY, headers=KEY)
        assert lost_twice.status_code == again.status_code == 200
        assert lost_twice.json()["choices"] == again.json()["choices"]

    behind_a_door(ask, [0, 1])  # before anything, and between head and body


def test_a_stream_that_had_begun_ends_with_an_error(behind_a_door: Callable[..., None]) -> None:
    async def ask(answers: Answers, client: httpx.AsyncClient) -> None:
        body = {**BODY, "stream": True}
        cut = await client.post("/v1/completions", json=body, headers=KEY)
        assert cut.status_code == 200
        events = [line for line in cut.text.split("\n\n") if line]
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "replica_lost"
        whole = await client.post("/v1/completions", json=body, headers=KEY)
        first = whole.text.split("\n\n")[0]
        choices = [json.loads(e.removeprefix("data: "))["choices"] for e in (events[0], first)]
        assert choices[0] == choices[1]
        assert whole.text.endswith("data: [DONE]\n\n")
        assert len(answers.scopes) == 2

    behind_a_door(ask, [4])


def test_a_request_is_given_up_after_some_tries(behind_a_door: Callable[..., None]) -> None:
    async def ask(answers: Answers, client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/completions", json=BODY, headers=KEY)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "replica_lost"
        assert answer.headers["retry-after"] == "1"
        assert len(answers.scopes) == TRIES

    behind_a_door(ask, [0] * TRIES)


def test_what_leaves_something_behind_is_not_done_twice(
    behind_a_door: Callable[..., None],
) -> None:
    async def ask(answers: Answers, client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/support/feedback", json={}, headers=KEY)
        assert answer.status_code == 503
        assert len(answers.scopes) == 1

    behind_a_door(ask, [0, 0])


def test_the_key_stays_at_the_door_and_its_mark_goes_on(
    behind_a_door: Callable[..., None],
) -> None:
    async def ask(answers: Answers, client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/completions", json=BODY)).status_code == 401
        assert answers.scopes == []
        answer = await client.post("/v1/completions", json=BODY, headers=KEY)
        assert answer.status_code == 200
        (scope,) = answers.scopes
        assert not {b"authorization", b"origin"} & {name for name, _ in scope["headers"]}
        assert "sesame" not in repr(scope)
        assert len(scope["chatglm.tenant"]) == 16
        assert (b"x-request-id", answer.headers["x-request-id"].encode()) in scope["headers"]

    behind_a_door(ask, [])


def test_the_door_knows_what_its_replicas_did(behind_a_door: Callable[..., None]) -> None:
    async def ask(answers: Answers, client: httpx.AsyncClient) -> None:
        for body in (BODY, {**BODY, "stream": True}):
            assert (await client.post("/v1/completions", json=body, headers=KEY)).status_code == 200
        for record in answers.records:
            fields = record.fields()
            assert (fields["model"], fields["finish"]) == ("toy", "length")
            assert (fields["status"], fields["completion_tokens"]) == (200, 12)
            assert float(str(fields["ttft"])) > 0
        prompt = answers.records[0].fields()["prompt_tokens"]
        numbers = (await client.get("/metrics", headers=KEY)).text
        for line in (
            "generation_tokens_total 24.0",
            f"prompt_tokens_total {2.0 * prompt}",
            'request_success_total{finished_reason="length"} 2.0',
            "time_to_first_token_seconds_count 2.0",
            "e2e_request_latency_seconds_count 2.0",
        ):
            assert f"chatglm:{line}" in numbers

    behind_a_door(ask, [])


def test_the_door_asks_its_replicas_for_the_numbers_of_their_engines(
    behind_a_door: Callable[..., None],
) -> None:
    async def ask(answers: Answers, client: httpx.AsyncClient) -> None:
        body = {**BODY, "prompt": "今天天气很好。" * 20}
        for _ in range(2):
            assert (await client.post("/v1/completions", json=body, headers=KEY)).status_code == 200
        fields = answers.records[1].fields()
        assert int(str(fields["cached_tokens"])) > 0
        numbers = (await client.get("/metrics", headers=KEY)).text
        for line in (
            f'prefix_cache_queries_total{{model_name="toy"}} {2.0 * fields["prompt_tokens"]}',
            f'prefix_cache_hits_total{{model_name="toy"}} {1.0 * fields["cached_tokens"]}',
            'num_preemptions_total{model_name="toy"} 0.0',
            'num_requests_running{model_name="toy"} 0.0',
            'num_requests_waiting{model_name="toy"} 0.0',
            'kv_cache_usage_perc{model_name="toy"} 0.0',
        ):
            assert f"chatglm:{line}\n" in numbers

    behind_a_door(ask, [])


def test_secrets_are_known_by_their_names() -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "API_KEYS"):
        assert SECRET.search(name)
    for name in ("PATH", "KEYBOARD", "TOKENIZERS_PARALLELISM", "HOME"):
        assert not SECRET.search(name)
