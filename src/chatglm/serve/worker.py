"""The one thread that steps the engines; everybody else hands it work and hears of the outcome."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from chatglm.generation.engine import Engine
from chatglm.generation.request import Output
from chatglm.generation.sampling import Sampling
from chatglm.prompt import Prompt

log = logging.getLogger("chatglm.serve.worker")
T = TypeVar("T")


class Job:
    """One request to one engine, from any thread's side.

    outputs: what the engine has put out and nobody has taken yet. notify: called in the worker's
    thread after something was put there. tokens, num_cached, finish: what has come of it so far,
    for whoever reports on it. Times are of `time.perf_counter`.
    """

    def __init__(
        self, engine: Engine, prompt: Prompt, sampling: Sampling, notify: Callable[[], None]
    ) -> None:
        self.engine, self.prompt, self.sampling, self.notify = engine, prompt, sampling, notify
        self.stop_ids = engine.stop_ids if sampling.stop_ids is None else sampling.stop_ids
        self.outputs: deque[Output] = deque()
        self.id: int | None = None
        self.num_open = sampling.n
        self.tokens: list[int] = []
        self.num_cached = 0
        self.finish: str | None = None
        self.is_over = False
        self.was_refused = False
        self.submitted = time.perf_counter()
        self.started: float | None = None
        self.now = self.submitted
        self.first: float | None = None
        self.last: float | None = None


class Observer:
    """Hears of what happens to jobs; does nothing unless a subclass does."""

    def queued(self, job: Job) -> None:
        """The job has left the queue."""

    def token(self, job: Job, seconds: float | None) -> None:
        """The job has a new token, so long after the one before (None: it is the first)."""


class Worker:
    """Steps engines in turns, in one thread; between steps it takes in what others ask for.

    A job that is cancelled is gone before the next step. Should a step itself fail, all jobs of
    that engine end with an error and `error` says why: the server is not healthy then.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self.engines: list[Engine] = []
        self.observer = observer or Observer()
        self.error: Exception | None = None
        self.jobs: dict[tuple[int, int], Job] = {}
        self.unstarted: list[Job] = []
        self.num_outstanding: dict[int, int] = {}
        self.commands: deque[Callable[[], None]] = deque()
        self.wake = threading.Condition()
        self.is_stopping = False
        self.thread = threading.Thread(target=self.run, name="chatglm-engine", daemon=True)

    def start(self, engines: Sequence[Engine]) -> None:
        """Begin to work on these engines."""
        self.engines = list(engines)
        self.num_outstanding = {id(engine): 0 for engine in engines}
        self.thread.start()

    def stop(self) -> None:
        """End the thread; jobs that are left end with an error."""
        self.is_stopping = True
        self.ask(lambda: None)
        if self.thread.is_alive():
            self.thread.join(timeout=30)

    @property
    def is_alive(self) -> bool:
        """Whether jobs are worked on."""
        return self.thread.is_alive() and self.error is None

    def outstanding(self, engine: Engine) -> int:
        """Jobs of an engine that wait or run."""
        return self.num_outstanding.get(id(engine), 0)

    def ask(self, command: Callable[[], None]) -> None:
        """Have something done in the worker's thread before its next step."""
        with self.wake:
            self.commands.append(command)
            self.wake.notify()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self.num_outstanding[id(job.engine)] += 1
        self.ask(lambda: self.begin(job))

    def cancel(self, job: Job) -> None:
        """Forget a job before the next step."""
        self.ask(lambda: self.drop(job))

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function between two steps."""
        future: Future[T] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:  # the caller is told whatever it was
                future.set_exception(error)

        self.ask(command)
        return future

    # In the worker's own thread

    def run(self) -> None:
        """Work until stopped."""
        while not self.is_stopping:
            with self.wake:
                while not self.commands and not any(engine.busy for engine in self.engines):
                    self.wake.wait()
            while self.commands:
                self.commands.popleft()()
            for engine in self.engines:
                if engine.busy:
                    self.step(engine)
        self.end_all(self.engines, RuntimeError("the server has stopped"))

    def begin(self, job: Job) -> None:
        """Hand a job to its engine."""
        if job.is_over:
            return
        if self.error is not None:
            self.end(job, Output(id=-1, token=None, error=self.error))
            return
        try:
            job.id = job.engine.add(job.prompt, job.sampling)
        except Exception as error:  # a request that cannot run is refused, whatever the reason
            job.was_refused = isinstance(error, ValueError)
            self.end(job, Output(id=-1, token=None, error=error))
            return
        self.jobs[id(job.engine), job.id] = job
        self.unstarted.append(job)

    def drop(self, job: Job) -> None:
        """Take a job from its engine."""
        if job.is_over:
            return
        if job.id is not None:
            job.engine.abort(job.id)
            self.jobs.pop((id(job.engine), job.id), None)
        self.finish(job)

    def step(self, engine: Engine) -> None:
        """One step, and everybody is told."""
        try:
            outputs = engine.step()
        except Exception as error:  # not one request's fault: nothing of this engine can go on
            log.critical("the engine has failed", exc_info=error)
            self.error = error
            self.end_all([engine], error)
            return
        now = time.perf_counter()
        self.note_started(now)
        for output in outputs:
            job = self.jobs.get((id(engine), output.id))
            if job is None:
                continue
            self.note(job, output, now)
            job.num_open -= output.finish is not None
            if not job.num_open or output.error is not None:
                del self.jobs[id(engine), output.id]
                self.end(job, output)
            else:
                job.outputs.append(output)
                job.notify()

    def note(self, job: Job, output: Output, now: float) -> None:
        """Keep what a report on the job tells."""
        job.now = now
        job.num_cached = max(job.num_cached, output.num_cached)
        if output.token is not None:
            self.observer.token(job, None if job.last is None else now - job.last)
            job.first = job.first or now
            job.last = now
            if job.finish is None:
                job.tokens.append(output.token)
        job.finish = job.finish or output.finish

    def note_started(self, now: float) -> None:
        """Note which jobs have left the queue."""
        waiting = []
        for job in self.unstarted:
            if job.is_over or job.id not in job.engine.scheduler.waiting:
                job.started = job.started or now
                self.observer.queued(job)
            else:
                waiting.append(job)
        self.unstarted = waiting

    def end(self, job: Job, output: Output) -> None:
        """Give a job its last output."""
        self.finish(job)
        job.outputs.append(output)
        job.notify()

    def finish(self, job: Job) -> None:
        """Count a job as over."""
        job.is_over = True
        self.num_outstanding[id(job.engine)] -= 1

    def end_all(self, engines: Sequence[Engine], error: Exception) -> None:
        """End every job of some engines with an error."""
        for engine in engines:
            for key, job in list(self.jobs.items()):
                if job.engine is engine:
                    del self.jobs[key]
                    engine.abort(key[1])
                    self.end(job, Output(id=key[1], token=None, error=error))
