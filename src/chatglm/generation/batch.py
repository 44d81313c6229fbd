"""Many replies at once: all requests enter the engine together and come back in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chatglm.generation.engine import Engine
from chatglm.generation.request import Request
from chatglm.generation.sampling import Sampling
from chatglm.generation.stop import TextStream
from chatglm.prompt import Prompt


@dataclass(kw_only=True)
class Job:
    """A request of the engine's and the texts that it has come to, one a reply.

    open: replies that have not ended, by the model or by a stop string.
    """

    id: int
    request: Request
    ends: frozenset[int]
    texts: list[TextStream]
    pieces: list[list[str]]
    open: set[int] = field(default_factory=set)

    def collect(self) -> None:
        """Take in what the engine has put out; an error is raised."""
        while self.request.outputs:
            output = self.request.outputs.popleft()
            if output.error is not None:
                raise output.error
            index = output.index
            if index not in self.open:
                continue
            text, pieces = self.texts[index], self.pieces[index]
            if output.token is not None and output.token not in self.ends:
                pieces.append(text.push(output.token))
            if output.finish is not None or text.stopped:
                pieces.append(text.flush())
                self.open.remove(index)


def replies(
    engine: Engine, prompts: Sequence[Prompt], sampling: Sampling, text: Callable[[], TextStream]
) -> list[list[str]]:
    """The `n` texts that follow each prompt, as if it were alone; an error in one ends all."""
    ends = engine.stop_ids if sampling.stop_ids is None else sampling.stop_ids
    count = sampling.n
    jobs: list[Job] = []
    try:
        for prompt in prompts:
            number = engine.add(prompt, sampling)
            jobs.append(
                Job(
                    id=number,
                    request=engine.requests[number],
                    ends=ends,
                    texts=[text() for _ in range(count)],
                    pieces=[[] for _ in range(count)],
                    open=set(range(count)),
                )
            )
        waiting = jobs
        while waiting:
            engine.step()
            for job in waiting:
                job.collect()
                if not job.open:
                    engine.abort(job.id)  # a stop string ends what the engine would go on with
            waiting = [job for job in waiting if job.open]
    finally:
        for job in jobs:
            engine.abort(job.id)
    return [["".join(pieces) for pieces in job.pieces] for job in jobs]
