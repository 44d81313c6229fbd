"""Which blocks a prompt need not fill again: what earlier requests have read stands under keys."""

from __future__ import annotations

from chatglm.generation.blocks import BLOCK_SIZE, extend_keys, root_key
from chatglm.generation.request import Branch, Request
from chatglm.generation.sampling import Sampling
from chatglm.generation.scheduler import Scheduler
from chatglm.prompt import Prompt


class PrefixCache:
    """Keys for the blocks of requests, and what of a request is found under them.

    num_learned: slots of the learned prefix in front of every sequence. is_on: where not, requests
    share nothing. num_queries, num_hits: tokens of prompts that were looked for, and found.
    """

    def __init__(self, scheduler: Scheduler, num_learned: int, *, is_on: bool) -> None:
        self.scheduler, self.num_learned, self.is_on = scheduler, num_learned, is_on
        self.num_queries = 0
        self.num_hits = 0

    def root(self, prompt: Prompt, sampling: Sampling) -> bytes | None:
        """Where a request's chain of keys starts; None: it shares nothing."""
        # What fills a hole stands elsewhere than the same tokens behind a text.
        hole = None if prompt.hole is None else f"{prompt.prefix} {prompt.hole}"
        return root_key(sampling.cache_salt, sampling.adapter, hole) if self.is_on else None

    def keys(self, request: Request) -> list[bytes]:
        """The keys that a prompt is looked for under; none where all of it must be read."""
        keys: list[bytes] = []
        if request.root is not None and request.sampling.prompt_logprobs is None:
            # The last token is read in any case: its hidden state gives the first of the reply.
            tokens = [*[-1] * self.num_learned, *request.prompt.tokens[:-1]]
            extend_keys(keys, tokens, request.root)
        return keys

    def find(self, branch: Branch) -> int:
        """Let a branch begin behind what is found of it; how many slots, learned ones included."""
        num_slots = self.scheduler.find_again(branch.id) * BLOCK_SIZE
        branch.num_read = max(num_slots - self.num_learned, 0)
        if branch.index == 0 and not branch.num_new:
            branch.request.num_cached = branch.num_read
            self.num_queries += len(branch.tokens)
            self.num_hits += branch.num_read
        return num_slots

    def join(self, branch: Branch) -> bool:
        """Let a branch that has not begun hold the prompt's blocks with one that has read them."""
        length = len(branch.request.prompt.tokens)
        for other in branch.request.branches:
            if (
                other.num_read >= length
                and other.id in self.scheduler.running
                and not branch.num_new
            ):
                self.scheduler.fork({branch.id: other.id}, self.num_learned + length)
                branch.num_read, branch.is_reading = length, False
                return True
        return False

    def keep(self, branch: Branch) -> None:
        """Make the blocks that a branch has filled findable; those of a search are still in play
        behind the prompt.
        """
        root, num_read = branch.request.root, branch.num_read
        if branch.request.beams is not None:
            num_read = min(num_read, len(branch.request.prompt.tokens))
        num_blocks = (self.num_learned + num_read) // BLOCK_SIZE
        if root is None or num_blocks <= branch.num_kept:
            return
        branch.num_kept = num_blocks
        extend_keys(branch.keys, [*[-1] * self.num_learned, *branch.tokens[:num_read]], root)
        self.scheduler.keep(branch.id, branch.keys[:num_blocks])

    def forget(self) -> None:
        """Find nothing of what was read so far, as after a change of the weights."""
        self.scheduler.pool.forget_all()
