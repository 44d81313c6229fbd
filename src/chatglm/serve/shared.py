"""A served model for code that wants a `ChatGLM`; the worker's thread does the work."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from chatglm.generation.chat import ChatGLM
from chatglm.generation.engine import Engine
from chatglm.generation.request import Output
from chatglm.generation.sampling import Sampling
from chatglm.prompt import Prompt
from chatglm.serve.record import Record
from chatglm.serve.worker import Job, Worker


class GivenUp(RuntimeError):
    """Nobody waits for this any more."""


class SharedEngine:
    """What library code knows of an `Engine`, for one thread, over the worker.

    `step` waits until the worker has something for one of this object's own requests. record: of
    the HTTP request that all this is for.
    """

    def __init__(self, engine: Engine, worker: Worker, record: Record | None) -> None:
        self.engine, self.worker, self.record = engine, worker, record
        self.requests: dict[int, Job] = {}
        self.news = threading.Semaphore(0)
        self.next_id = 0
        self.is_given_up = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.engine, name)

    def add(self, prompt: Prompt, sampling: Sampling) -> int:
        """Queue a request."""
        self.check()
        if self.record is not None:
            sampling = replace(sampling, cache_salt=self.record.tenant)
        job = Job(self.engine, prompt, sampling, self.news.release)
        if self.record is not None:
            self.record.jobs.append(job)
        self.next_id += 1
        self.requests[self.next_id] = job
        self.worker.submit(job)
        return self.next_id

    def abort(self, request: int, index: int | None = None) -> bool:
        """Forget a request; one of its replies alone goes on unheard."""
        if index is not None:
            return False
        job = self.requests.pop(request, None)
        if job is None:
            return False
        self.worker.cancel(job)
        return True

    def step(self) -> list[Output]:
        """Wait for news; a GivenUp once nobody wants them."""
        self.check()
        self.news.acquire()
        self.check()
        return []

    def check(self) -> None:
        """A GivenUp where `give_up` was called."""
        if self.is_given_up:
            raise GivenUp("nobody waits for this any more")

    def give_up(self) -> None:
        """End all requests, and whatever waits for them; may be called from another thread."""
        self.is_given_up = True
        for job in list(self.requests.values()):
            self.worker.cancel(job)
        self.news.release()

    def stream(self, prompt: Prompt, sampling: Sampling) -> Generator[Output]:
        """The outputs of one request, as they come."""
        request = self.add(prompt, sampling)
        job = self.requests[request]
        try:
            while True:
                while job.outputs:
                    output = job.outputs.popleft()
                    if output.error is not None:
                        raise output.error
                    yield output
                    if output.finish is not None:
                        return
                self.step()
        finally:
            self.abort(request)


class SharedChatGLM(ChatGLM):
    """A `ChatGLM` whose work is done by the worker; make one for each thread."""

    def __init__(self, model: ChatGLM, worker: Worker, record: Record | None = None) -> None:
        self.loaded, self.adapter = model.loaded, model.adapter
        self.worker = worker
        self.share = SharedEngine(model.engine, worker, record)
        self.engine = cast(Engine, self.share)

    def give_up(self) -> None:
        """Stop what runs, and whatever is asked later."""
        self.share.give_up()

    def hidden(self, prompt: Prompt, positions: Tensor | None = None) -> Tensor:
        """Last hidden states of a prompt's tokens, computed between two steps."""

        @torch.inference_mode()
        def compute() -> Tensor:
            return ChatGLM.hidden(self, prompt, positions)

        return self.worker.call(compute).result()
