"""The one loop that decodes: requests come and go, every step brings each running one a token."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from chatglm.generation.blocks import BLOCK_SIZE, extend_keys, root_key
from chatglm.generation.request import Finish, Output, Request, check
from chatglm.generation.runner import Part, Runner
from chatglm.generation.sampling import (
    Sampler,
    Sampling,
    check_finite,
    log_probabilities,
    score_tokens,
)
from chatglm.generation.scheduler import Scheduler
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
        self.prefix_cache = prefix_cache and self.config.context == "causal"
        self.requests: dict[int, Request] = {}
        self.next_id = 0
        # Tokens of prompts that were looked for in the prefix cache, and that were found.
        self.num_prefix_queries = 0
        self.num_prefix_hits = 0

    def refresh(self) -> None:
        """Take weights as they are now; where they have changed, the prefix cache is void."""
        if self.runner.refresh():
            self.scheduler.pool.forget_all()

    def add(self, prompt: Prompt, sampling: Sampling) -> int:
        """Queue a request and return its id; everything that can be wrong with it is said here."""
        check(prompt, sampling, self.config.vocab_size, self.config.max_length)
        length = len(prompt.tokens)
        room = self.config.max_length - length
        limit = room if sampling.max_new_tokens is None else min(room, sampling.max_new_tokens)
        if not self.requests:
            self.refresh()
        learned = self.runner.num_learned
        request = Request(
            id=self.next_id,
            prompt=prompt,
            sampling=sampling,
            sampler=Sampler(sampling, prompt.tokens, self.runner.device),
            stop_ids=self.stop_ids if sampling.stop_ids is None else sampling.stop_ids,
            limit=limit,
            root=root_key(sampling.cache_salt) if self.prefix_cache else None,
        )
        keys: list[bytes] = []
        if request.root is not None and sampling.prompt_logprobs is None:
            # The last token is read in any case: its hidden state gives the first of the reply.
            extend_keys(keys, [*[-1] * learned, *prompt.tokens[:-1]], request.root)
        first = learned + length + min(limit, 1)
        self.scheduler.add(self.next_id, first, learned + length + limit, keys=keys)
        self.requests[self.next_id] = request
        self.next_id += 1
        return request.id

    def abort(self, request: int) -> bool:
        """Forget a request before its next step; False where it is not known (any more)."""
        self.scheduler.remove(request)
        return self.requests.pop(request, None) is not None

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
            except (MemoryError, RuntimeError) as error:
                outputs += self.fail(running, error)
        self.scheduler.admit()
        budget = self.max_num_batched_tokens
        for i in list(self.scheduler.running):
            request = self.requests[i]
            while request.is_reading and budget > 0:
                before = request.num_read
                try:
                    outputs += self.read(request)
                except (MemoryError, RuntimeError) as error:
                    outputs += self.fail([request], error)
                    break
                budget -= request.num_read - before
        return outputs

    def make_room(self) -> list[Request]:
        """Requests whose next token can be read now; where blocks are short, the youngest wait."""
        decoding = []
        for i in list(self.scheduler.running):
            request = self.requests[i]
            if i not in self.scheduler.running or request.is_reading:
                continue
            start = self.runner.num_learned + request.num_read
            self.send_back(self.scheduler.extend(i, start + len(request.fed)))
            if i in self.scheduler.running:
                copies, preempted = self.scheduler.own(i, start)
                if copies:
                    self.runner.open(self.scheduler.num_blocks).copy(copies)
                self.send_back(preempted)
            decoding.append(request)
        return [request for request in decoding if request.id in self.scheduler.running]

    def send_back(self, preempted: Iterable[int]) -> None:
        """Note that requests have lost their blocks."""
        for i in preempted:
            self.requests[i].num_read = 0
            self.requests[i].is_reading = True

    def read(self, request: Request) -> list[Output]:
        """Read the next chunk of a request's tokens; its output, if that was the last.

        A bidirectional context is read whole.
        """
        if request.num_read == 0:
            self.find(request)
        start, stop = request.num_read, len(request.tokens)
        whole = request.prompt.prefix if self.config.context == "prefix" else 0
        if stop - start > self.chunk_size:
            stop = min(max(start + self.chunk_size, whole), stop)
        hidden = self.forward([request], [request.tokens[start:stop]])
        request.num_read = stop
        self.keep(request)
        if request.sampling.prompt_logprobs is not None:
            self.score_prompt(request, hidden, start)
        if stop < len(request.tokens):
            return []
        request.is_reading = False
        if request.limit:
            return self.choose([request], self.runner.logits(hidden[-1:]))
        return [self.put(request, Output(id=request.id, token=None, finish="length"))]

    def find(self, request: Request) -> None:
        """Start a request behind what the prefix cache holds of it, learned prefix included."""
        num_slots = self.scheduler.find_again(request.id) * BLOCK_SIZE
        request.num_read = max(num_slots - self.runner.num_learned, 0)
        self.runner.open(self.scheduler.num_blocks)
        self.runner.begin(self.scheduler.running[request.id].blocks, num_slots)
        if not request.num_new:
            request.num_cached = request.num_read
            self.num_prefix_queries += len(request.prompt.tokens)
            self.num_prefix_hits += request.num_cached

    def keep(self, request: Request) -> None:
        """Make the blocks that a request has filled findable."""
        num_learned = self.runner.num_learned
        num_slots = num_learned + request.num_read
        if request.root is None or num_slots // BLOCK_SIZE <= len(request.keys):
            return
        slots = [*[-1] * num_learned, *request.tokens[: request.num_read]]
        extend_keys(request.keys, slots, request.root)
        self.scheduler.keep(request.id, request.keys[: num_slots // BLOCK_SIZE])

    def forward(self, requests: Sequence[Request], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Hidden states (T, C) of the next tokens of requests, one request after the other."""
        return self.runner.read(
            [
                Part(
                    prompt=request.prompt,
                    blocks=self.scheduler.running[request.id].blocks,
                    start=request.num_read,
                    tokens=part,
                )
                for request, part in zip(requests, tokens, strict=True)
            ]
        )

    def score_prompt(self, request: Request, hidden: Tensor, start: int) -> None:
        """Keep the log-probabilities of what follows the prompt's tokens from `start` on, whose
        hidden states (T, C) these are.
        """
        tokens, known = request.prompt.tokens, request.prompt_logprobs
        hidden = hidden[max(len(known) - 1 - start, 0) :]  # a preempted prompt is read again
        num_top = request.sampling.prompt_logprobs or 0
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
                known.append(score if i >= request.prompt.prefix else None)

    def decode(self, running: list[Request]) -> list[Output]:
        """Read one more token of each request, all together, and choose the next."""
        fed = [request.fed for request in running]
        hidden = self.forward(running, fed)  # (T, C)
        for request, part in zip(running, fed, strict=True):
            request.num_read += len(part)
            self.keep(request)
        return self.choose(running, self.runner.logits(hidden))

    def choose(self, requests: Sequence[Request], logits: Tensor) -> list[Output]:
        """The next token of each request from its row of logits (B, V); what has ended leaves."""
        scores, tokens = [], []
        if any(request.sampler.takes_likeliest for request in requests):
            best = logits.max(-1)
            scores, tokens = best.values.tolist(), best.indices.tolist()
        outputs = []
        for b, request in enumerate(requests):
            try:
                if request.sampler.takes_likeliest:
                    check_finite(scores[b])
                    token = tokens[b]
                else:
                    token = request.sampler.next(logits[b])
            except Exception as error:  # a caller's processor may raise anything
                outputs += self.fail([request], error)
                continue
            outputs.append(self.take(request, token, logits[b]))
        return outputs

    def take(self, request: Request, token: int, logits: Tensor) -> Output:
        """The output for a request's next token; the request leaves if that was its last."""
        request.sampler.remember(token)
        finish: Finish | None = None
        if token in request.stop_ids:
            finish = "stop"
        elif request.num_new >= request.limit:
            finish = "length"
        logprob, top = None, None
        if request.sampling.logprobs is not None:
            logprob, top = log_probabilities(logits, token, request.sampling.logprobs)
        output = Output(
            id=request.id, token=token, finish=finish, logprob=logprob, top_logprobs=top
        )
        return self.put(request, output)

    def put(self, request: Request, output: Output) -> Output:
        """The output as it is given out; the request leaves if it was its last."""
        if request.num_new <= 1:
            asked = request.sampling.prompt_logprobs is not None
            output = replace(
                output,
                num_cached=request.num_cached,
                prompt_logprobs=request.prompt_logprobs if asked else None,
            )
        request.outputs.append(output)
        if output.finish is not None:
            self.abort(request.id)
        return output

    def fail(self, requests: Sequence[Request], error: Exception) -> list[Output]:
        """End requests with an error; the others go on."""
        outputs = []
        for request in requests:
            outputs.append(Output(id=request.id, token=None, error=error))
            request.outputs.append(outputs[-1])
            self.abort(request.id)
        return outputs

    def stream(self, prompt: Prompt, sampling: Sampling) -> Generator[Output]:
        """The outputs of one request, as they come; leaving the loop early aborts it.

        Several streams may be read in turns: a step serves all, and each finds its own outputs.
        """
        request = self.requests[self.add(prompt, sampling)]
        try:
            while True:
                while request.outputs:
                    output = request.outputs.popleft()
                    if output.error is not None:
                        raise output.error
                    yield output
                    if output.finish is not None:
                        return
                self.step()
        finally:
            self.abort(request.id)
