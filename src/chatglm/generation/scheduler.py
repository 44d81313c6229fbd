"""Who runs and who waits: first come, first served, within a number of blocks. No tensors here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chatglm.generation.blocks import BLOCK_SIZE, BlockPool


@dataclass(kw_only=True)
class Claim:
    """A request's share of the cache.

    num_slots: tokens that it needs room for now. keys: of its full blocks, as far as they are
    known; only they are looked for in the prefix cache. blocks: what it holds, in order.
    num_found: how many of them were found there.
    """

    num_slots: int
    keys: list[bytes] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    num_found: int = 0


class Scheduler:
    """Gives blocks of `block_size` tokens to requests in the order of their arrival.

    A request is admitted with the room that it needs now, less what the prefix cache holds of it,
    and extended as it grows. Where no block is left, the youngest that runs goes back to the head
    of the queue. So whoever runs came before whoever waits, the oldest always gets on, and nobody
    starves.
    """

    def __init__(self, *, num_blocks: int, block_size: int = BLOCK_SIZE, max_num_seqs: int) -> None:
        for name, value in (
            ("num_blocks", num_blocks),
            ("block_size", block_size),
            ("max_num_seqs", max_num_seqs),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.pool = BlockPool(num_blocks)
        self.num_preemptions = 0
        self.waiting: OrderedDict[int, Claim] = OrderedDict()
        self.running: OrderedDict[int, Claim] = OrderedDict()

    @property
    def num_blocks(self) -> int:
        """Blocks in all."""
        return self.pool.num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that no request holds."""
        return self.pool.num_free

    def blocks(self, num_slots: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-num_slots // self.block_size)

    def add(
        self, request: int, num_slots: int, most: int, *, keys: Sequence[bytes] = (), count: int = 1
    ) -> None:
        """Queue a request that needs room for `num_slots` to start and for `most` at its end.

        count: how many such requests come together and may have to run at once.
        """
        if count * self.blocks(most) > self.num_blocks or count > self.max_num_seqs:
            times = f"{count} times " if count > 1 else ""
            raise ValueError(
                f"the request may come to {times}{most} tokens and the cache holds "
                f"{self.num_blocks * self.block_size} in {self.max_num_seqs} sequences; lower "
                "max_new_tokens or raise max_num_tokens"
            )
        self.waiting[request] = Claim(num_slots=num_slots, keys=list(keys))

    def admit(self) -> list[int]:
        """Requests that start now, in the order of arrival."""
        admitted = []
        while self.waiting and len(self.running) < self.max_num_seqs:
            request, claim = next(iter(self.waiting.items()))
            found = self.pool.find(claim.keys)
            kept = sum(not self.pool.counts[block] for block in found)
            fresh = self.blocks(claim.num_slots) - len(found)
            if fresh + kept > self.num_free:
                break
            del self.waiting[request]
            self.pool.share(found)
            claim.blocks = found + self.pool.take(fresh)
            claim.num_found = len(found)
            self.running[request] = claim
            admitted.append(request)
        return admitted

    def find_again(self, request: int) -> int:
        """How many leading blocks of a request that has read nothing yet hold its content; what
        others have read since its admission takes the place of its own.
        """
        claim = self.running[request]
        found = self.pool.find(claim.keys)
        if len(found) > claim.num_found:
            self.pool.share(found)
            self.pool.release(claim.blocks[: len(found)])
            claim.blocks[: len(found)] = found
            claim.num_found = len(found)
        return claim.num_found

    def keep(self, request: int, keys: Sequence[bytes]) -> None:
        """Make full blocks of a request findable; `keys` are those of all its full blocks."""
        claim = self.running[request]
        for i in range(len(claim.keys), len(keys)):
            claim.keys.append(keys[i])
        for block, key in zip(claim.blocks, keys, strict=False):
            self.pool.keep(block, key)

    def extend(self, request: int, num_slots: int) -> list[int]:
        """Make room for `num_slots` in all; who had to go back to the queue, perhaps this one."""
        claim = self.running[request]
        claim.num_slots = max(claim.num_slots, num_slots)
        return self.grow(request, self.blocks(num_slots) - len(claim.blocks))

    def has_room(self, request: int, num_slots: int) -> bool:
        """Whether a running request can be extended so far and nobody has to go."""
        missing = self.blocks(num_slots) - len(self.running[request].blocks)
        return missing <= self.num_free

    def grow(self, request: int, num_blocks: int) -> list[int]:
        """Give a request more blocks; who had to go back to the queue for that."""
        preempted = []
        while num_blocks > self.num_free:
            youngest = next(reversed(self.running))
            self.preempt(youngest)
            preempted.append(youngest)
            if youngest == request:
                return preempted
        if num_blocks > 0:
            self.running[request].blocks += self.pool.take(num_blocks)
        return preempted

    def require(self, request: int, num_slots: int) -> None:
        """Let a waiting request need so much room at its next admission."""
        self.waiting[request].num_slots = num_slots

    def own(self, request: int, start: int) -> tuple[list[tuple[int, int]], list[int]]:
        """Make the blocks from slot `start` on a request's own, since it is going to write there:
        copies (from, to) that are due, and who had to go back to the queue.
        """
        claim = self.running[request]
        copies, preempted = [], []
        for i in range(start // self.block_size, len(claim.blocks)):
            if self.pool.counts[claim.blocks[i]] == 1:
                self.pool.forget(claim.blocks[i])
                continue
            preempted += self.grow(request, 1)
            if request in preempted:
                return [], preempted
            shared, claim.blocks[i] = claim.blocks[i], claim.blocks.pop()
            self.pool.release([shared])
            copies.append((shared, claim.blocks[i]))
        return copies, preempted

    def fork(self, sources: Mapping[int, int], num_slots: int) -> None:
        """Let running requests hold what others do, up to `num_slots`, instead of their own."""
        count = self.blocks(num_slots)
        blocks = {to: self.running[of].blocks[:count] for to, of in sources.items()}
        for shared in blocks.values():
            self.pool.share(shared)
        for request, shared in blocks.items():
            claim = self.running[request]
            self.pool.release(claim.blocks)
            claim.blocks = shared

    def preempt(self, request: int) -> None:
        """Send a running request back to the head of the queue."""
        claim = self.running.pop(request)
        self.pool.release(claim.blocks)
        claim.blocks, claim.num_found = [], 0
        self.waiting[request] = claim
        self.waiting.move_to_end(request, last=False)
        self.num_preemptions += 1

    def remove(self, request: int) -> bool:
        """Forget a request, running or waiting; False where it is not known."""
        claim = self.running.pop(request, None)
        if claim is not None:
            self.pool.release(claim.blocks)
            return True
        return self.waiting.pop(request, None) is not None
