"""The one loop that decodes: requests come and go, every step brings each running one a token."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from chatglm.generation.cache import BatchCache, SequenceCache, attention_mask, position_ids
from chatglm.generation.sampling import Sampler, Sampling, log_probabilities
from chatglm.generation.scheduler import Claim, Scheduler
from chatglm.model import Transformer
from chatglm.prompt import Prompt, positions

Finish = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Output:
    """One token of one request.

    finish: `stop` after a stop id, `length` at the limit, None while it goes on. error: why the request ended
    without a token. logprob, top_logprobs: in nats, where the request asked for them.
    """

    id: int
    token: int | None
    finish: Finish | None = None
    error: str | None = None
    logprob: float | None = None
    top_logprobs: dict[int, float] | None = None


@dataclass(kw_only=True)
class Request:
    """A request on its way: what was asked, its cache, and how far it is."""

    id: int
    prompt: Prompt
    sampling: Sampling
    sampler: Sampler
    stop_ids: frozenset[int]
    limit: int
    num_new: int = 0
    last: int = -1
    cache: SequenceCache | None = None
    outputs: deque[Output] = field(default_factory=deque)

    @property
    def length(self) -> int:
        """Tokens of prompt and reply so far."""
        return len(self.prompt.tokens) + self.num_new


class Engine:
    """Runs requests on one model.

    Each prompt is prefilled alone; the running sequences take their next token together. A reply depends on its own
    request only: generators are per request, and attention never crosses sequences.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        stop_ids: frozenset[int] = frozenset(),
        learned_prefix: Tensor | None = None,
        max_num_seqs: int = 16,
        max_num_tokens: int | None = None,
    ) -> None:
        self.model = model.eval()
        self.config = model.config
        self.stop_ids = stop_ids
        self.learned_prefix = learned_prefix
        weight = model.embedding.weight
        self.device = weight.device
        self.dtype = model.layers[0].norm1.weight.dtype
        self.scheduler = Scheduler(
            max_num_seqs=max_num_seqs,
            max_num_tokens=max_num_tokens or max_num_seqs * self.config.max_length,
        )
        self.requests: dict[int, Request] = {}
        self.next_id = 0

    def add(self, prompt: Prompt, sampling: Sampling) -> int:
        """Queue a request and return its id; everything that can be wrong with it is said here."""
        length, room = len(prompt.tokens), self.config.max_length - len(prompt.tokens)
        if not length:
            raise ValueError("the prompt is empty; give at least one token")
        if room < 1:
            raise ValueError(
                f"the prompt has {length} tokens and the model's context holds {self.config.max_length}, "
                "reply included; shorten the prompt"
            )
        low, high = min(prompt.tokens), max(prompt.tokens)
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(
                f"token ids must lie between 0 and {self.config.vocab_size - 1}, got "
                f"{low if low < 0 else high}"
            )
        for token in sampling.logit_bias:
            if not 0 <= token < self.config.vocab_size:
                raise ValueError(
                    f"logit_bias names token {token}; ids go from 0 to {self.config.vocab_size - 1}"
                )
        limit = room if sampling.max_new_tokens is None else min(room, sampling.max_new_tokens)
        self.scheduler.add(Claim(id=self.next_id, num_tokens=length + limit))
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
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.requests)

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """One more token for every running request; new ones are prefilled first."""
        outputs: list[Output] = []
        running = [self.requests[i] for i in self.scheduler.running]
        if running:
            outputs += self.advance(running, self.decode(running))
        for i in self.scheduler.admit():
            request = self.requests[i]
            outputs += self.advance([request], self.prefill(request))
        return outputs

    def prefill(self, request: Request) -> Tensor:
        """Read the whole prompt; logits (1, V) of the token after it."""
        prompt, device = request.prompt, self.device
        length = len(prompt.tokens)
        request.cache = SequenceCache(
            self.config,
            dtype=self.dtype,
            device=device,
            learned_prefix=self.learned_prefix,
            capacity=length + min(request.limit, 64),
        )
        tokens = torch.tensor([prompt.tokens], device=device)
        mask = attention_mask(
            prompt,
            self.config,
            device,
            start=0,
            stop=length,
            num_learned=request.cache.num_learned,
        )
        cache = BatchCache([request.cache])
        hidden = self.model(tokens, position_ids(prompt, length, self.config, device), mask, cache)
        cache.advance(length)
        return self.model.logits(hidden[:, -1])

    def decode(self, running: list[Request]) -> Tensor:
        """Read each request's last token; logits (B, V) of the next."""
        planes = self.config.num_planes
        tokens = torch.tensor([[r.last] for r in running], device=self.device)  # (B, 1)
        places = torch.tensor(
            [positions(r.prompt, r.length, planes, r.length - 1) for r in running],
            device=self.device,
        )  # (B, P, 1)
        caches = []
        for request in running:
            assert request.cache is not None
            request.cache.reserve(request.length)
            caches.append(request.cache)
        cache = BatchCache(caches)
        hidden = self.model(tokens, places, None, cache)
        cache.advance(1)
        return self.model.logits(hidden[:, 0])

    def advance(self, running: list[Request], logits: Tensor) -> Iterator[Output]:
        """Choose each request's token from its row of logits (B, V); what has ended leaves."""
        for row, request in zip(logits, running, strict=True):
            output = self.choose(request, row)
            request.outputs.append(output)
            if output.finish is not None or output.error is not None:
                self.abort(request.id)
            yield output

    def choose(self, request: Request, logits: Tensor) -> Output:
        """The next token of one request; what is wrong with it ends this request alone."""
        try:
            token = request.sampler.next(logits)
        except Exception as error:  # a caller's processor may raise anything
            return Output(id=request.id, token=None, error=str(error))
        request.last = token
        request.num_new += 1
        finish: Finish | None = None
        if token in request.stop_ids:
            finish = "stop"
        elif request.num_new >= request.limit:
            finish = "length"
        logprob, top = None, None
        if request.sampling.logprobs is not None:
            logprob, top = log_probabilities(logits, token, request.sampling.logprobs)
        return Output(
            id=request.id, token=token, finish=finish, logprob=logprob, top_logprobs=top
        )

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Output]:
        """The outputs of one request, as they come; leaving the loop early aborts it.

        Several streams may be read in turns: a step serves all, and each finds its own outputs.
        """
        request = self.requests[self.add(prompt, sampling)]
        try:
            while True:
                while request.outputs:
                    output = request.outputs.popleft()
                    if output.error is not None:
                        raise ValueError(output.error)
                    yield output
                    if output.finish is not None:
                        return
                self.step()
        finally:
            self.abort(request.id)
