"""Who runs and who waits: first come, first served, within a budget of tokens. No tensors here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a request needs: `num_tokens` is the most that its prompt and reply can come to."""

    id: int
    num_tokens: int


class Scheduler:
    """Admits claims in their order while sequences and tokens last; a running claim always fits to its end.

    What a request may need is set aside when it is admitted, so that none that runs is ever thrown out.
    """

    def __init__(self, *, max_num_seqs: int, max_num_tokens: int) -> None:
        if max_num_seqs < 1 or max_num_tokens < 1:
            raise ValueError(
                f"max_num_seqs and max_num_tokens must be at least 1, got {max_num_seqs} and {max_num_tokens}"
            )
        self.max_num_seqs = max_num_seqs
        self.max_num_tokens = max_num_tokens
        self.waiting: deque[Claim] = deque()
        self.running: dict[int, Claim] = {}
        self.num_tokens = 0

    def add(self, claim: Claim) -> None:
        """Queue a claim; one that could never run is refused here."""
        if claim.num_tokens > self.max_num_tokens:
            raise ValueError(
                f"the request may need {claim.num_tokens} tokens and the engine holds {self.max_num_tokens}; "
                "lower max_new_tokens or raise max_num_tokens"
            )
        self.waiting.append(claim)

    def admit(self) -> Iterator[int]:
        """Ids that start now, in the order of arrival."""
        while self.waiting and len(self.running) < self.max_num_seqs:
            claim = self.waiting[0]
            if self.num_tokens + claim.num_tokens > self.max_num_tokens:
                return
            self.waiting.popleft()
            self.running[claim.id] = claim
            self.num_tokens += claim.num_tokens
            yield claim.id

    def remove(self, request: int) -> bool:
        """Forget a claim, running or waiting; False where there is none."""
        claim = self.running.pop(request, None)
        if claim is not None:
            self.num_tokens -= claim.num_tokens
            return True
        for claim in self.waiting:
            if claim.id == request:
                self.waiting.remove(claim)
                return True
        return False
