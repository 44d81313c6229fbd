"""What is known of a request when it is over: one line in the log, a few numbers in the metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel

from chatglm.prompt import Prompt
from chatglm.serve.worker import Job


@dataclass(kw_only=True)
class Record:
    """One request.

    code: of the error that it was refused by. tenant: a mark of the key that it came with. jobs:
    what the engine did for it. prompts: what was read without a reply. decode: ids as text, where
    the operator wants prompts and replies in the log; said: what an application was given
    and gave, likewise. elsewhere: what a replica tells of its model, where one has answered, and
    how its replies ended.
    """

    id: str
    method: str
    path: str
    client: str
    start: float = field(default_factory=time.perf_counter)
    status: int = 0
    code: str | None = None
    tenant: str | None = None
    model: str | None = None
    jobs: list[Job] = field(default_factory=list)
    prompts: Sequence[Prompt] = ()
    decode: Callable[[list[int]], str] | None = None
    said: dict[str, str] = field(default_factory=dict)
    elsewhere: dict[str, object] = field(default_factory=dict)
    finishes_elsewhere: Sequence[str] = ()

    def keep(self, given: BaseModel, gave: object) -> None:
        """Note what an application was given and gave, if the log is to tell it."""
        if self.decode is not None:
            self.said = {
                "input": given.model_dump_json(exclude_defaults=True),
                "output": json.dumps(gave, ensure_ascii=False),
            }

    @property
    def finishes(self) -> list[str]:
        """How each reply ended."""
        return [*self.finishes_elsewhere, *(job.finish or "cancelled" for job in self.jobs)]

    @property
    def num_prompt(self) -> int:
        """Tokens of all different prompts."""
        read = [job.prompt for job in self.jobs] + list(self.prompts)
        return sum({id(prompt): len(prompt.tokens) for prompt in read}.values())

    def fields(self) -> dict[str, object]:
        """What the log tells; prompts and replies only with `--log-content`."""
        told: dict[str, object] = {
            "id": self.id,
            "route": f"{self.method} {self.path}",
            "status": self.status,
            "client": self.client,
            "seconds": round(time.perf_counter() - self.start, 4),
        }
        if self.code is not None:
            told["error"] = self.code
        return told | (self.elsewhere or self.of_model())

    def of_model(self) -> dict[str, object]:
        """Which model was asked, what it read and what it wrote."""
        told: dict[str, object] = {}
        if self.model is not None:
            told["model"] = self.model
        if self.num_prompt:
            told["prompt_tokens"] = self.num_prompt
        if self.jobs:
            firsts = {id(job.prompt): job.num_cached for job in reversed(self.jobs)}
            told["cached_tokens"] = sum(firsts.values())
            told["completion_tokens"] = sum(len(job.tokens) for job in self.jobs)
            waits = [job.first - job.submitted for job in self.jobs if job.first is not None]
            if waits:
                told["ttft"] = round(min(waits), 4)
            told["finish"] = ",".join(sorted(set(self.finishes)))
        return told | self.content()

    def content(self) -> dict[str, object]:
        """Prompts as the model read them and replies, where the operator wants them in the log."""
        if self.decode is None:
            return {}
        told: dict[str, object] = dict(self.said)
        read = {id(prompt): prompt for prompt in [*self.prompts, *(j.prompt for j in self.jobs)]}
        if read:
            told["prompt"] = "\n".join(self.decode(list(p.tokens)) for p in read.values())
        if self.jobs:
            told["reply"] = "\n".join(self.decode(job.tokens).strip() for job in self.jobs)
        return told
