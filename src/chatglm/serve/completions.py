"""`/v1/completions`: what follows a text, or fills the gap between two."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from chatglm.generation.sampling import Sampling
from chatglm.prompt import Prompt
from chatglm.serve.chat import own
from chatglm.serve.errors import invalid
from chatglm.serve.events import DONE, event
from chatglm.serve.generation import Ask, Generation, Step, now
from chatglm.serve.protocol.texts import CompletionBody, listed
from chatglm.serve.registry import Registry, Served
from chatglm.serve.scores import TextScores


class Completion:
    """One request to write on, ready to run."""

    def __init__(self, registry: Registry, served: Served, body: CompletionBody) -> None:
        self.served, self.body = served, body
        self.id = f"cmpl-{secrets.token_hex(12)}"
        self.created = now()
        self.template = served.tokenizer.template
        prompts = listed(body.prompt)
        registry.room(served, len(prompts) * (body.n or 1))
        sampling = self.sampling()
        self.asks: list[Ask] = []
        for given in prompts:
            prompt = self.prompt(given)
            self.asks += [Ask(prompt=prompt, sampling=own(sampling, i)) for i in range(body.n or 1)]
        self.is_silent = body.limit == 0 and body.logprobs is None
        self.generation = Generation(
            registry=registry, served=served, asks=[] if self.is_silent else self.asks
        )
        self.echoes = [self.echo(ask.prompt) if body.echo else "" for ask in self.asks]
        spell = self.spell
        self.scores = [TextScores(spell=spell) for _ in self.asks]

    def prompt(self, given: str | list[int]) -> Prompt:
        """A text or ids as a prompt."""
        served = self.served
        try:
            if isinstance(given, list):
                prompt = served.model.prompt(given)
            elif self.body.suffix:
                served.check_size(given + self.body.suffix, "prompt")
                prompt = self.gap(given, self.body.suffix)
            else:
                served.check_size(given, "prompt")
                prompt = served.model.continuation(given)
        except ValueError as error:
            raise invalid(str(error), "prompt") from error
        high = max(prompt.tokens, default=0)
        if high >= served.model.config.vocab_size:
            raise invalid(
                f"the prompt has token {high} and ids go to {served.model.config.vocab_size - 1}",
                "prompt",
            )
        if len(prompt.tokens) >= served.max_length + (self.body.limit == 0):
            raise served.too_long(str(len(prompt.tokens)), "prompt")
        return prompt

    def gap(self, before: str, after: str) -> Prompt:
        """Two texts as a prompt whose reply fills the gap between them."""
        tokenizer = self.served.tokenizer
        gmask, sop = (
            tokenizer.special.get(name) for name in (self.template.gmask, self.template.sop)
        )
        if gmask is None or sop is None:
            raise invalid(f"{self.served.name} cannot fill gaps; leave suffix out", "suffix")
        tokens = [
            *self.template.encode_part(before, first=True),
            gmask,
            *self.template.encode_part(after, first=False),
        ]
        return self.template.as_blank(before, tokens, [sop])

    def sampling(self) -> Sampling:
        """How the replies are drawn."""
        body = self.body
        settings = body.settings()
        settings["max_new_tokens"] = max(body.limit, 1)
        sampling = self.served.sampling(settings)
        if body.suffix:
            sampling = replace(sampling, stop_ids=self.template.blank_end_ids)
        if body.logprobs is None:
            return sampling
        sampling = replace(sampling, logprobs=body.logprobs)
        if body.echo:
            sampling = replace(sampling, prompt_logprobs=body.logprobs)
        return replace(sampling, max_new_tokens=body.limit) if body.limit == 0 else sampling

    def echo(self, prompt: Prompt) -> str:
        """The prompt as it is repeated."""
        if isinstance(self.body.prompt, str):
            return self.body.prompt
        return self.served.tokenizer.decode(prompt.tokens)

    def spell(self, token: int) -> bytes:
        """The bytes of a token; a special one by its name."""
        name = self.served.tokenizer.special_ids.get(token)
        return self.served.tokenizer.bytes_of(token) if name is None else name.encode()

    async def pieces(self) -> AsyncGenerator[tuple[int, str, dict[str, object] | None, str | None]]:
        """Index, text, log-probabilities and finish of every reply, as they come."""
        if self.is_silent:
            for index, echo in enumerate(self.echoes):
                yield index, echo, None, "length"
            return
        has_begun = [False] * len(self.asks)
        async with aclosing(self.generation.steps()) as steps:
            async for step in steps:
                text = step.text
                if not has_begun[step.index]:
                    has_begun[step.index] = True
                    text = self.echoes[step.index] + text
                    if self.body.echo and self.body.logprobs is not None:
                        self.score_prompt(step.index)
                logprobs = self.score(step)
                if text or logprobs is not None or step.finish is not None:
                    yield step.index, text, logprobs, step.finish

    def score_prompt(self, index: int) -> None:
        """Note the log-probabilities of a prompt."""
        known = self.generation.replies[index].prompt_logprobs or []
        decoder = self.served.tokenizer.stream()
        for i, token in enumerate(self.asks[index].prompt.tokens):
            score, rivals = (known[i] if i < len(known) else None) or (None, None)
            self.scores[index].add(token, score, rivals, len(decoder.push(token)))

    def score(self, step: Step) -> dict[str, object] | None:
        """The log-probabilities that a step tells; the token that ends a reply has them too."""
        if self.body.logprobs is None or step.output is None:
            return None
        scores = self.scores[step.index]
        if step.output.token is not None:
            scores.add(
                step.output.token, step.output.logprob, step.output.top_logprobs, len(step.text)
            )
        return scores.take() if scores.tokens else None

    async def whole(self) -> dict[str, object]:
        """The response in one piece."""
        texts = [""] * len(self.asks)
        finishes: list[str | None] = [None] * len(self.asks)
        scores: list[dict[str, list[object]]] = [{} for _ in self.asks]
        async with aclosing(self.pieces()) as pieces:
            async for index, text, logprobs, finish in pieces:
                texts[index] += text
                finishes[index] = finish
                for key, values in (logprobs or {}).items():
                    assert isinstance(values, list)
                    scores[index].setdefault(key, []).extend(values)
        choices = [
            {
                "index": i,
                "text": texts[i],
                "logprobs": scores[i] or None,
                "finish_reason": finishes[i],
            }
            for i in range(len(self.asks))
        ]
        return {**self.head(), "choices": choices, "usage": self.usage()}

    async def events(self) -> AsyncGenerator[bytes]:
        """The response as a stream of events."""
        head = self.head()
        if self.body.wants_usage:
            head["usage"] = None
        async with aclosing(self.pieces()) as pieces:
            async for index, text, logprobs, finish in pieces:
                choice = {
                    "index": index,
                    "text": text,
                    "logprobs": logprobs,
                    "finish_reason": finish,
                }
                yield event({**head, "choices": [choice]})
        if self.body.wants_usage:
            yield event({**head, "choices": [], "usage": self.usage()})
        yield DONE

    def usage(self) -> dict[str, object]:
        """OpenAI's `usage`."""
        if not self.is_silent:
            return self.generation.usage()
        count = sum({id(ask.prompt): len(ask.prompt.tokens) for ask in self.asks}.values())
        return {"prompt_tokens": count, "completion_tokens": 0, "total_tokens": count}

    def head(self) -> dict[str, object]:
        """What every object of this response begins with."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }
