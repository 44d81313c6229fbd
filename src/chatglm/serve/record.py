"""What is known of a request when it is over: one line in the log, a few numbers in the metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from chatglm.serve.generation import Generation


@dataclass(kw_only=True)
class Record:
    """One request.

    tenant: a mark of the key that it came with.
    """

    id: str
    method: str
    path: str
    client: str
    start: float = field(default_factory=time.perf_counter)
    status: int = 0
    tenant: str | None = None
    model: str | None = None
    generation: Generation | None = None

    def fields(self) -> dict[str, object]:
        """What the log tells; prompts and replies only with `--log-content`."""
        told: dict[str, object] = {
            "id": self.id,
            "route": f"{self.method} {self.path}",
            "status": self.status,
            "client": self.client,
            "seconds": round(time.perf_counter() - self.start, 4),
        }
        if self.model is not None:
            told["model"] = self.model
        if (made := self.generation) is not None:
            told["prompt_tokens"] = made.num_prompt
            told["cached_tokens"] = made.num_cached
            told["completion_tokens"] = made.num_new
            if made.first_after is not None:
                told["ttft"] = round(made.first_after, 4)
            finishes = {reply.finish or "cancelled" for reply in made.replies}
            if finishes:
                told["finish"] = ",".join(sorted(finishes))
            told |= made.content()
        return told
