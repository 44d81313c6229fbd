"""The worker in this process: cancelled jobs, jobs that fail, jobs of many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from chatglm import ChatGLM, Sampling
from chatglm.prompt import Prompt
from chatglm.serve.errors import failure
from chatglm.serve.shared import GivenUp, SharedChatGLM
from chatglm.serve.worker import Job, Worker

LONG = Sampling(temperature=0, max_new_tokens=120, stop_ids=frozenset())
MARK = 7
"""A token whose presence makes the network run out of memory."""


@pytest.fixture
def model(toy: Path) -> ChatGLM:
    loaded = ChatGLM.from_pretrained(toy)
    assert isinstance(loaded, ChatGLM)
    return loaded


@pytest.fixture
def worker(model: ChatGLM) -> Iterator[Worker]:
    started = Worker()
    started.start([model.engine])
    yield started
    started.stop()


class Listener:
    """A job's other side: waits for what it puts out."""

    def __init__(
        self, worker: Worker, model: ChatGLM, tokens: list[int], sampling: Sampling
    ) -> None:
        self.news = threading.Semaphore(0)
        self.job = Job(model.engine, Prompt(tokens=tuple(tokens)), sampling, self.news.release)
        worker.submit(self.job)

    def wait(self, count: int) -> list[int | None]:
        """So many outputs' tokens, fewer where it ends before."""
        tokens: list[int | None] = []
        while len(tokens) < count:
            assert self.news.acquire(timeout=60)
            while self.job.outputs:
                output = self.job.outputs.popleft()
                if output.error is not None:
                    raise output.error
                tokens.append(output.token)
                if output.finish is not None:
                    return tokens
        return tokens


def gate_steps(
    model: ChatGLM, monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Semaphore, list[int]]:
    """Lets the engine step only when it is told to; how many requests each step began with."""
    allowed, seen = threading.Semaphore(0), list[int]()
    step = model.engine.step

    def gated() -> list[object]:
        assert allowed.acquire(timeout=60)
        seen.append(len(model.engine.requests))
        return step()  # type: ignore[return-value]

    monkeypatch.setattr(model.engine, "step", gated)
    return allowed, seen


def test_a_cancelled_job_is_gone_before_the_next_step(
    model: ChatGLM, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, seen = gate_steps(model, monkeypatch)
    jobs = [Listener(worker, model, [5, 6, i], LONG) for i in (8, 9, 10)]
    allowed.release(3)
    for job in jobs:
        job.wait(1)
    while len(seen) < 3:
        pass
    worker.cancel(jobs[0].job)
    worker.cancel(jobs[1].job)
    # The step that already waits began before; the one after it knows of the two.
    allowed.release(2)
    jobs[2].wait(1)  # what came before may have been read together above
    while len(seen) < 5:
        pass
    assert seen[4] == 1
    assert worker.outstanding(model.engine) == 1
    allowed.release(1000)
    worker.cancel(jobs[2].job)


def test_a_job_that_cannot_run_is_refused_and_others_go_on(model: ChatGLM, worker: Worker) -> None:
    good = Listener(worker, model, [5, 6], LONG)
    bad = Listener(worker, model, [10**6], LONG)
    with pytest.raises(ValueError, match="token ids must lie"):
        bad.wait(1)
    assert bad.job.was_refused
    assert len(good.wait(120)) == 120
    assert worker.outstanding(model.engine) == 0
    assert worker.is_alive


def out_of_memory_at(
    model: ChatGLM, monkeypatch: pytest.MonkeyPatch, is_hit: Callable[[torch.Tensor], bool]
) -> None:
    """Every forward that the condition is true of fails as an allocator does."""
    runner = model.engine.runner
    arranged = runner.arranged

    def arranging(parts: list[object]) -> object:
        tokens = torch.tensor([t for part in parts for t in part.tokens])  # type: ignore[attr-defined]
        if is_hit(tokens):
            raise torch.OutOfMemoryError("no memory for this allocation")
        return arranged(parts)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "arranged", arranging)


def test_no_memory_for_a_prompt_ends_that_request_alone(
    model: ChatGLM, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Listener(worker, model, [5, 6, 8], LONG).wait(120)
    out_of_memory_at(model, monkeypatch, lambda tokens: bool((tokens == MARK).any()))
    good = Listener(worker, model, [5, 6, 8], LONG)
    bad = Listener(worker, model, [5, MARK, 8], LONG)
    with pytest.raises(torch.OutOfMemoryError) as lacking:
        bad.wait(1)
    told = failure(lacking.value)
    assert (told.status_code, told.code) == (503, "out_of_memory")
    assert "Retry-After" in (told.headers or {})
    assert good.wait(120) == alone
    assert worker.is_alive


def test_no_memory_for_a_token_ends_that_request_alone(
    model: ChatGLM, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced = Sampling(
        temperature=0, max_new_tokens=50, stop_ids=frozenset(), logit_bias={MARK: 1000.0}
    )
    free = Sampling(
        temperature=0, max_new_tokens=120, stop_ids=frozenset(), logit_bias={MARK: -1000.0}
    )
    alone = Listener(worker, model, [5, 6, 8], free).wait(120)
    out_of_memory_at(model, monkeypatch, lambda tokens: bool((tokens == MARK).any()))
    good = Listener(worker, model, [5, 6, 8], free)
    bad = Listener(worker, model, [5, 6, 9], forced)
    with pytest.raises(torch.OutOfMemoryError):
        bad.wait(50)
    assert good.wait(120) == alone
    assert worker.is_alive


def test_a_step_that_fails_ends_all_and_is_remembered(
    model: ChatGLM, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[object]:
        raise KeyError("a bug")

    monkeypatch.setattr(model.engine, "step", broken)
    jobs = [Listener(worker, model, [5, i], LONG) for i in (6, 8)]
    for job in jobs:
        with pytest.raises(KeyError):
            job.wait(1)
    assert not worker.is_alive
    with pytest.raises(KeyError):
        Listener(worker, model, [5, 9], LONG).wait(1)


def test_library_code_in_many_threads_says_what_it_says_alone(
    model: ChatGLM, worker: Worker
) -> None:
    texts = ["今天", "你好", "程序"]
    found: dict[int, list[str]] = {}

    def work(i: int) -> None:
        shared = SharedChatGLM(model, worker)
        found[i] = shared.generate_many(texts, temperature=0, max_new_tokens=12)
        found[i] += [
            "".join(shared.stream(text, temperature=0, max_new_tokens=12)) for text in texts
        ]
        assert torch.allclose(shared.embed("你好"), own)

    with torch.inference_mode():
        own = ChatGLM.embed(model, "你好")
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 4
    for said in found.values():
        assert said == found[0]
        assert said[:3] == said[3:]


def test_what_is_given_up_ends_in_its_thread(model: ChatGLM, worker: Worker) -> None:
    shared = SharedChatGLM(model, worker)
    stream = shared.stream("你好", temperature=0)
    next(stream)
    shared.give_up()
    with pytest.raises(GivenUp):
        list(stream)
    with pytest.raises(GivenUp):
        shared.generate("你好")


def test_a_function_runs_between_steps_and_its_error_comes_back(worker: Worker) -> None:
    assert worker.call(threading.current_thread).result(60) is worker.thread

    def wrong() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        worker.call(wrong).result(60)
