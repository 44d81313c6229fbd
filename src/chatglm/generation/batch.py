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
    """A request and the text that it has come to."""

    request: Request
    text: TextStream
    pieces: list[str] = field(default_factory=list)

    def collect(self) -> bool:
        """Whether the reply has ended, after taking in what the engine has put out; its error is
        raised.
        """
        while self.request.outputs:
            output = self.request.outputs.popleft()
            if output.error is not None:
                raise output.error
            if output.token is not None and output.token not in self.request.stop_ids:
                self.pieces.append(self.text.push(output.token))
            if output.finish is not None or self.text.stopped:
                self.pieces.append(self.text.flush())
                return True
        return False


def replies(
    engine: Engine, prompts: Sequence[Prompt], sampling: Sampling, text: Callable[[], TextStream]
) -> list[str]:
    """The texts that follow the prompts, each as if alone; an error in one ends all."""
    jobs: list[Job] = []
    try:
        for prompt in prompts:
            request = engine.requests[engine.add(prompt, sampling)]
            jobs.append(Job(request=request, text=text()))
        waiting = jobs
        while waiting:
            engine.step()
            going = []
            for job in waiting:
                if job.collect():
                    engine.abort(job.request.id)  # a stop string ends what the engine would go on
                else:
                    going.append(job)
            waiting = going
    finally:
        for job in jobs:
            engine.abort(job.request.id)
    return ["".join(job.pieces) for job in jobs]
