"""The one loop that decodes: requests come and go, every step brings each running one a token."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

import torch
from torch import Tensor

from chatglm.generation.beams import Beams
from chatglm.generation.blocks import BLOCK_SIZE
from chatglm.generation.prefix import PrefixCache
from chatglm.generation.replies import Replies
from chatglm.generation.request import Branch, Output, Request, check
from chatglm.generation.runner import Part, Runner
from chatglm.generation.sampling import Sampler, Sampling, score_tokens, seeds
from chatglm.generation.scheduler import Scheduler
from chatglm.generation.speculation import DraftModel, Speculation
from chatglm.model import Transformer
from chatglm.prompt import Prompt

__all__ = ["Engine", "Output"]

CACHE_BYTES = 4 << 30
"""Room for keys and values unless max_num_tokens says otherwise; one full context always fits."""
SCORED_AT_ONCE = 128
"""Rows of scores over the vocabulary that exist at once when a prompt is scored."""


class Engine:
    """Runs requests on one model.

    Each prompt is read alone, in chunks, as far as the prefix cache does not hold it; the running
    sequences then take their tokens together. A reply depends on its own request only: every
    request has its own random generator, attention never crosses sequences, and a preempted request
    reads its prompt and reply again.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        stop_ids: frozenset[int] = frozenset(),
        learned_prefix: Tensor | None = None,
        max_num_seqs: int = 16,
        max_num_tokens: int | None = None,
        max_num_batched_tokens: int = 2048,
        chunk_size: int = 512,
        kv_dtype: str = "auto",
        prefix_cache: bool = True,
        draft: Transformer | None = None,
    ) -> None:
        self.runner = runner = Runner(model, learned_prefix=learned_prefix, kv_dtype=kv_dtype)
        self.config = model.config
        self.stop_ids = stop_ids
        if max_num_tokens is None:
            room = min(max_num_seqs * runner.slots_needed, CACHE_BYTES // runner.token_bytes)
            max_num_tokens = max(room, runner.slots_needed)
        self.scheduler = Scheduler(
            num_blocks=-(-max_num_tokens // BLOCK_SIZE), max_num_seqs=max_num_seqs
        )
        self.max_num_batched_tokens = max_num_batched_tokens
        self.chunk_size = chunk_size
        self.prefixes = PrefixCache(
            self.scheduler,
            runner.num_learned,
            is_on=prefix_cache and self.config.context == "causal",
        )
        self.replies = Replies(self.scheduler, runner.num_learned)
        self.speculation = Speculation(
            None if draft is None else DraftModel(draft, self.config, num_seqs=max_num_seqs)
        )
        self.next_id = 0
        self.num_steps = 0

    def refresh(self) -> None:
        """Take weights as they are now; where they have changed, the prefix cache is void."""
        if self.runner.refresh():
            self.prefixes.forget()

    def add_adapter(self, name: str, model: Transformer) -> None:
        """Let requests name an adapter: `model` is the base, over the same weights, with it on."""
        self.runner.add_adapter(name, model)
        self.prefixes.forget()

    def add(self, prompt: Prompt, sampling: Sampling) -> int:
        """Queue a request and return its id; everything that can be wrong with it is said here."""
        check(prompt, sampling, self.config.vocab_size, self.config.max_length)
        if sampling.adapter is not None and sampling.adapter not in self.runner.adapters:
            raise ValueError(
                f"there is no adapter {sampling.adapter!r}; "
                f"known are: {', '.join(self.runner.adapters) or 'none'}"
            )
        length = len(prompt.tokens)
        room = self.config.max_length - length
        limit = room if sampling.max_new_tokens is None else min(room, sampling.max_new_tokens)
        if not self.requests:
            self.refresh()
        learned = self.runner.num_learned
        stop_ids = self.stop_ids if sampling.stop_ids is None else sampling.stop_ids
        request = Request(
            id=self.next_id,
            prompt=prompt,
            sampling=sampling,
            stop_ids=stop_ids,
            limit=limit,
            root=self.prefixes.root(prompt, sampling),
            num_open=sampling.n,
        )
        if sampling.num_beams > 1 and limit:
            request.beams = Beams(sampling=sampling, stop_ids=stop_ids, limit=limit)
        keys = self.prefixes.keys(request)
        first, most = learned + length + min(limit, 1), learned + length + limit
        together = sampling.num_beams if limit else 1
        for index, seed in enumerate(seeds(sampling) if limit else [0] * sampling.n):
            sampler = Sampler(sampling, prompt.tokens, self.runner.device, seed=seed)
            branch = Branch(id=self.next_id, index=index, request=request, sampler=sampler)
            self.scheduler.add(branch.id, first, most, keys=keys, count=together)
            request.branches.append(branch)
            self.next_id += 1
        self.replies.add(request)
        return request.id

    def abort(self, request: int, index: int | None = None) -> bool:
        """Forget a request, or one of its replies, before its next step; False where it is not
        known (any more).
        """
        found = self.requests.get(request)
        if found is None or index is None or found.is_held:
            return self.replies.drop(request)
        branch = found.branches[index]
        if branch.id not in self.replies.branches:
            return False
        self.replies.leave(branch)
        found.num_open -= 1
        return found.num_open > 0 or self.replies.drop(request)

    @property
    def requests(self) -> dict[int, Request]:
        """Requests that have not ended."""
        return self.replies.requests

    @property
    def num_running(self) -> int:
        """Requests that hold room in the cache."""
        return len(self.scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self.scheduler.waiting)

    @property
    def num_preemptions(self) -> int:
        """How often a request has had to go back to the queue."""
        return self.scheduler.num_preemptions

    @property
    def cache_usage(self) -> float:
        """Share of the cache that requests hold, 0 to 1."""
        return 1 - self.scheduler.num_free / self.scheduler.num_blocks

    @property
    def max_cache_bytes(self) -> int:
        """Bytes of keys and values when all the room is used."""
        return self.scheduler.num_blocks * BLOCK_SIZE * self.runner.token_bytes

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.requests)

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """One more token for each request that has read its prompt; others read on in theirs."""
        outputs: list[Output] = []
        running = self.make_room()
        if running:
            try:
                outputs += self.decode(running)
            except (MemoryError, RuntimeError):
                outputs += self.decode_apart(running)
        self.scheduler.admit()
        budget = self.max_num_batched_tokens
        for i in list(self.scheduler.running):
            while budget > 0 and (branch := self.replies.branches.get(i)) and branch.is_reading:
                before = branch.num_read
                try:
                    outputs += self.read(branch)
                except (MemoryError, RuntimeError) as error:
                    outputs += self.replies.fail([branch.request], error)
                    break
                budget -= branch.num_read - before
        return outputs

    def make_room(self) -> list[Branch]:
        """Branches whose next token can be read now; where blocks are short, the youngest wait."""
        decoding = []
        branches = [self.replies.branches[i] for i in self.scheduler.running]
        due = [branch for branch in branches if not branch.is_reading and branch.num_fed]
        if any(branch.num_wanted for branch in due):
            self.speculation.propose(due, self.replies.branches)
        for branch in due:
            i, start = branch.id, self.runner.num_learned + branch.num_read
            if i not in self.scheduler.running:
                continue
            if branch.drafts and not self.scheduler.has_room(i, start + branch.num_fed):
                branch.drafts = []  # nobody has to go for what is only tried
            self.send_back(self.scheduler.extend(i, start + branch.num_fed))
            if i in self.scheduler.running:
                copies, preempted = self.scheduler.own(i, start)
                if copies:
                    self.runner.open(self.scheduler.num_blocks).copy(copies)
                self.send_back(preempted)
            decoding.append(branch)
        return [branch for branch in decoding if branch.id in self.scheduler.running]

    def send_back(self, preempted: Iterable[int]) -> None:
        """Note that branches have lost their blocks."""
        for i in preempted:
            branch = self.replies.branches[i]
            self.scheduler.require(i, self.runner.num_learned + len(branch.tokens))
            branch.num_read, branch.num_kept = 0, 0
            branch.is_reading, branch.drafts = True, []
            if branch.request.beams is not None:
                branch.request.beams.logits.pop(branch.index, None)

    def read(self, branch: Branch) -> list[Output]:
        """Read the next chunk of a branch's tokens; its output, if that was the last.

        A bidirectional context is read whole.
        """
        request = branch.request
        if branch.num_read == 0:
            if request.start is not None and self.prefixes.join(branch):
                return self.replies.choose([branch], request.start)
            num_found = self.prefixes.find(branch)
            self.runner.open(self.scheduler.num_blocks)
            self.runner.begin(self.scheduler.running[branch.id].blocks, num_found)
        start, stop = branch.num_read, len(branch.tokens)
        whole = request.prompt.prefix if self.config.context == "prefix" else 0
        if stop - start > self.chunk_size:
            stop = min(max(start + self.chunk_size, whole), stop)
        hidden = self.runner.read([self.part(branch, branch.tokens[start:stop])])  # (T, C)
        branch.num_read = stop
        self.prefixes.keep(branch)
        if request.sampling.prompt_logprobs is not None and branch.index == 0:
            self.score_prompt(request, hidden, start)
        if stop < len(branch.tokens):
            return []
        branch.is_reading = False
        if not request.limit:
            output = Output(id=request.id, index=branch.index, token=None, finish="length")
            self.replies.leave(branch)
            return [self.replies.put(request, output)]
        logits = self.runner.logits(hidden[-1:])
        if len(request.branches) > 1 and not branch.num_new:
            request.start = logits
        return self.replies.choose([branch], logits)

    def part(self, branch: Branch, tokens: Sequence[int]) -> Part:
        """The next tokens of a branch, for the runner."""
        return Part(
            prompt=branch.request.prompt,
            blocks=self.scheduler.running[branch.id].blocks,
            start=branch.num_read,
            tokens=tokens,
            adapter=branch.request.sampling.adapter,
        )

    def score_prompt(self, request: Request, hidden: Tensor, start: int) -> None:
        """Keep the log-probabilities of what follows the prompt's tokens from `start` on, whose
        hidden states (T, C) these are.
        """
        tokens, known = request.prompt.tokens, request.prompt_logprobs
        hidden = hidden[max(len(known) - 1 - start, 0) :]  # a preempted prompt is read again
        num_top = request.sampling.prompt_logprobs or 0
        unheard = request.prompt.prefix if self.config.context == "prefix" else 0
        if not known:
            known.append(None)
        for part in hidden.split(SCORED_AT_ONCE):
            following = tokens[len(known) : len(known) + len(part)]
            if not following:
                break
            logits = self.runner.logits(part[: len(following)])
            scores = score_tokens(logits, following, num_top)
            for i, score in enumerate(scores, len(known)):
                # What stands in a bidirectional context was not foretold but seen.
                known.append(score if i >= unheard else None)

    def decode(self, running: list[Branch]) -> list[Output]:
        """Read one more token of each branch, all together, and choose the next."""
        # Nothing is noted before all has succeeded.
        logits = self.runner.score([self.part(branch, branch.fed) for branch in running])  # (T, V)
        for branch in running:
            branch.num_read = len(branch.tokens)
            self.prefixes.keep(branch)
        outputs = self.replies.choose(running, logits)
        self.num_steps += 1
        return outputs

    def decode_apart(self, running: list[Branch]) -> list[Output]:
        """`decode` of one branch after the other, where all together failed: whose token cannot be
        read ends with the error, the others go on.
        """
        outputs: list[Output] = []
        for branch in running:
            if branch.id not in self.replies.branches:  # another of its request has failed
                continue
            try:
                outputs += self.decode([branch])
            except (MemoryError, RuntimeError) as error:
                outputs += self.replies.fail([branch.request], error)
        return outputs

    def stream(self, prompt: Prompt, sampling: Sampling) -> Generator[Output]:
        """The outputs of one request, as they come; leaving the loop early aborts it.

        Several streams may be read in turns: a step serves all, and each finds its own outputs.
        """
        request = self.requests[self.add(prompt, sampling)]
        num_open = sampling.n
        try:
            while num_open:
                while request.outputs:
                    output = request.outputs.popleft()
                    if output.error is not None:
                        raise output.error
                    num_open -= output.finish is not None
                    yield output
                if num_open:
                    self.step()
        finally:
            self.abort(request.id)
