"""Who runs and who waits: first come, first served, within a number of blocks. No tensors here."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(kw_only=True)
class Claim:
    """A request's share: the tokens it needs room for now, and the blocks it holds."""

    num_tokens: int
    num_blocks: int = 0


class Scheduler:
    """Gives blocks of `block_size` tokens to requests in the order of their arrival.

    A request is admitted with the room that it needs now and extended as it grows. Where no block
    is left, the youngest that runs goes back to the head of the queue. So whoever runs came before
    whoever waits, the oldest always gets on, and nobody starves.
    """

    def __init__(self, *, num_blocks: int, block_size: int = 16, max_num_seqs: int) -> None:
        for name, value in (
            ("num_blocks", num_blocks),
            ("block_size", block_size),
            ("max_num_seqs", max_num_seqs),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.num_free = num_blocks
        self.num_preemptions = 0
        self.waiting: OrderedDict[int, Claim] = OrderedDict()
        self.running: OrderedDict[int, Claim] = OrderedDict()

    def blocks(self, num_tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-num_tokens // self.block_size)

    def add(self, request: int, num_tokens: int, most: int) -> None:
        """Queue a request that needs room for `num_tokens` to start and for `most` at its end."""
        if self.blocks(most) > self.num_blocks:
            raise ValueError(
                f"the request may come to {most} tokens and the cache holds "
                f"{self.num_blocks * self.block_size}; lower max_new_tokens or raise max_num_tokens"
            )
        self.waiting[request] = Claim(num_tokens=num_tokens)

    def admit(self) -> list[int]:
        """Requests that start now, in the order of arrival."""
        admitted = []
        while self.waiting and len(self.running) < self.max_num_seqs:
            request, claim = next(iter(self.waiting.items()))
            needed = self.blocks(claim.num_tokens)
            if needed > self.num_free:
                break
            del self.waiting[request]
            claim.num_blocks = needed
            self.num_free -= needed
            self.running[request] = claim
            admitted.append(request)
        return admitted

    def extend(self, request: int, num_tokens: int) -> list[int]:
        """Make room for `num_tokens` in all; who had to go back to the queue, perhaps this one."""
        claim = self.running[request]
        claim.num_tokens = max(claim.num_tokens, num_tokens)
        preempted = []
        while (missing := self.blocks(num_tokens) - claim.num_blocks) > 0:
            if missing <= self.num_free:
                claim.num_blocks += missing
                self.num_free -= missing
                break
            youngest, victim = self.running.popitem()
            self.num_free += victim.num_blocks
            victim.num_blocks = 0
            self.waiting[youngest] = victim
            self.waiting.move_to_end(youngest, last=False)
            self.num_preemptions += 1
            preempted.append(youngest)
            if youngest == request:
                break
        return preempted

    def remove(self, request: int) -> bool:
        """Forget a request, running or waiting; False where it is not known."""
        claim = self.running.pop(request, None)
        if claim is not None:
            self.num_free += claim.num_blocks
            return True
        return self.waiting.pop(request, None) is not None
