"""The one loop that decodes: requests come and go, every step brings each running one a token."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from chatglm.generation.cache import BatchCache, SequenceCache, attention_mask, position_ids
from chatglm.generation.packed import can_pack, fingerprint, pack
from chatglm.generation.request import Finish, Output, Request, check
from chatglm.generation.sampling import (
    Sampler,
    Sampling,
    check_finite,
    log_probabilities,
    score_tokens,
)
from chatglm.generation.scheduler import Scheduler
from chatglm.model import Transformer
from chatglm.prompt import Prompt, positions

__all__ = ["Engine", "Output"]

CACHE_BYTES = 4 << 30
"""Room for keys and values unless max_num_tokens says otherwise; one full context always fits."""
SCORED_AT_ONCE = 128
"""Rows of scores over the vocabulary that exist at once when a prompt is scored."""


class Engine:
    """Runs requests on one model.

    Each prompt is read alone, in chunks that depend on nothing but itself; the running sequences
    then take their tokens together. A reply depends on its own request only: every request has its
    own random generator, attention never crosses rows, and a preempted request reads its prompt and
    reply again just as it did before.
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
    ) -> None:
        self.model = model.eval()
        self.config = config = model.config
        self.stop_ids = stop_ids
        self.learned_prefix = learned_prefix
        self.device = model.embedding.weight.device
        self.dtype = stream_dtype(model)
        if max_num_tokens is None:
            token_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim
            token_bytes *= self.dtype.itemsize
            room = min(max_num_seqs * config.max_length, CACHE_BYTES // token_bytes)
            max_num_tokens = max(room, config.max_length)
        self.scheduler = Scheduler(num_blocks=-(-max_num_tokens // 16), max_num_seqs=max_num_seqs)
        self.max_num_batched_tokens = max_num_batched_tokens
        self.chunk_size = chunk_size
        self.requests: dict[int, Request] = {}
        self.next_id = 0
        self.decoder = model
        self.fingerprint: tuple[tuple[int, int], ...] | None = None
        # Tokens of prompts that were looked for in the prefix cache, and that were found.
        self.num_prefix_queries = 0
        self.num_prefix_hits = 0

    def refresh(self) -> None:
        """Pack the linears, again where weights have changed since."""
        now = fingerprint(self.model)
        if now != self.fingerprint:
            self.decoder = pack(self.model) if can_pack(self.model) else self.model
            self.fingerprint = now

    def add(self, prompt: Prompt, sampling: Sampling) -> int:
        """Queue a request and return its id; everything that can be wrong with it is said here."""
        check(prompt, sampling, self.config.vocab_size, self.config.max_length)
        length = len(prompt.tokens)
        room = self.config.max_length - length
        limit = room if sampling.max_new_tokens is None else min(room, sampling.max_new_tokens)
        if not self.requests:
            self.refresh()
        self.scheduler.add(self.next_id, length + min(limit, 1), length + limit)
        self.requests[self.next_id] = Request(
            id=self.next_id,
            prompt=prompt,
            sampling=sampling,
            sampler=Sampler(sampling, prompt.tokens, self.device),
            stop_ids=self.stop_ids if sampling.stop_ids is None else sampling.stop_ids,
            limit=limit,
        )
        self.next_id += 1
        return self.next_id - 1

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
            while request.reads_prompt and budget > 0:
                before = request.num_read
                try:
                    hidden = self.read(request)
                    if request.is_due:
                        outputs += self.begin(request, hidden[:, -1])
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
            if i in self.scheduler.running and not request.reads_prompt:
                for victim in self.scheduler.extend(i, request.num_read + 1):
                    self.requests[victim].cache = None
                    self.requests[victim].num_read = 0
                decoding.append(request)
        return [request for request in decoding if request.id in self.scheduler.running]

    def read(self, request: Request) -> Tensor:
        """Read the next chunk of a prompt; hidden states (1, T, C).

        A bidirectional context is read whole.
        """
        prompt, start = request.prompt, request.num_read
        stop = length = len(prompt.tokens)
        if self.config.context == "causal":
            stop = min(start + self.chunk_size, length)
        if request.cache is None:
            request.cache = SequenceCache(
                self.config,
                dtype=self.dtype,
                device=self.device,
                learned_prefix=self.learned_prefix,
                capacity=length + min(request.limit, 64),
            )
        cache = request.cache
        hidden = self.decoder(
            torch.tensor([prompt.tokens[start:stop]], device=self.device),
            position_ids(prompt, stop, self.config, self.device, start),
            attention_mask(
                prompt,
                self.config,
                self.device,
                start=start,
                stop=stop,
                num_learned=cache.num_learned,
            ),
            BatchCache([cache]),
        )
        cache.length = request.num_read = stop
        if request.sampling.prompt_logprobs is not None:
            self.score_prompt(request, hidden[0], start)
        return hidden

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
            logits = self.decoder.logits(part[: len(following)])
            scores = score_tokens(logits, following, num_top)
            for i, score in enumerate(scores, len(known)):
                # What stands in a bidirectional context was not foretold but seen.
                known.append(score if i >= request.prompt.prefix else None)

    def begin(self, request: Request, hidden: Tensor) -> list[Output]:
        """The first output of a request whose prompt has been read up to hidden state (1, C)."""
        if request.limit:
            return self.choose([request], self.decoder.logits(hidden))
        return [self.put(request, Output(id=request.id, token=None, finish="length"))]

    def decode(self, running: list[Request]) -> list[Output]:
        """Read one more token of each request, all together; outputs of those that are due."""
        planes = self.config.num_planes
        tokens, places, caches = [], [], []
        for request in running:
            at = request.num_read
            tokens.append([request.tokens[at]])
            places.append(positions(request.prompt, at + 1, planes, at))
            assert request.cache is not None
            request.cache.reserve(at + 1)
            caches.append(request.cache)
        cache = BatchCache(caches)
        hidden = self.decoder(
            torch.tensor(tokens, device=self.device),  # (B, 1)
            torch.tensor(places, device=self.device),  # (B, P, 1)
            None,
            cache,
        )[:, 0]  # (B, C)
        cache.advance(1)
        for request in running:
            request.num_read += 1
        due = [b for b, request in enumerate(running) if request.is_due]
        if not due:
            return []
        if len(due) < len(running):
            hidden = hidden[due]
        return self.choose([running[b] for b in due], self.decoder.logits(hidden))

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


def stream_dtype(model: Transformer) -> torch.dtype:
    """The dtype of hidden states, keys and values: the norms', which no quantization touches."""
    return next(p.dtype for name, p in model.named_parameters() if ".norm1." in name)
