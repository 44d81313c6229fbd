"""The replies to one HTTP request: jobs of the worker as text, in the server's own loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

from chatglm.generation.request import Output, TokenScore
from chatglm.generation.sampling import Sampling
from chatglm.generation.stop import TextStream
from chatglm.prompt import Prompt
from chatglm.serve.errors import ApiError, failure, invalid
from chatglm.serve.registry import Registry, Served
from chatglm.serve.worker import Job

log = logging.getLogger("chatglm.serve")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one token adds to one reply.

    text: what has become certain. output: the engine's; None for the rest of the text at the end.
    token: None where the token is no part of the reply (a stop id). finish: on a reply's last step.
    """

    index: int
    text: str
    output: Output | None = None
    token: int | None = None
    finish: str | None = None


@dataclass(kw_only=True)
class Reply:
    """One of the replies while it is made."""

    job: Job
    text: TextStream
    num_new: int = 0
    num_cached: int = 0
    finish: str | None = None
    prompt_logprobs: list[TokenScore | None] | None = None


@dataclass(kw_only=True)
class Ask:
    """One prompt and how it is to be answered."""

    prompt: Prompt
    sampling: Sampling
    strips: bool = False


@dataclass(kw_only=True)
class Generation:
    """All replies to a request, in the order of its prompts.

    tenant: whose prompts may be found in the prefix cache; None for everybody's. jobs: where those
    who report on the request look for what was done.
    `steps` starts them and ends when all have ended; leaving it early, by whatever way, cancels
    what is left before the engine's next step.
    """

    registry: Registry
    served: Served
    asks: Sequence[Ask]
    tenant: str | None = None
    jobs: list[Job] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)

    def check(self) -> None:
        """An error, before anything is sent, where the request cannot be taken."""
        self.registry.room(self.served, len(self.asks))

    def start(self) -> asyncio.Event:
        """Hand all to the worker; the event is set whenever there is news."""
        self.check()
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def notify() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

        decoder = self.served.tokenizer.stream
        for ask in self.asks:
            room = self.served.max_length - len(ask.prompt.tokens)
            limit = ask.sampling.max_new_tokens
            sampling = replace(
                ask.sampling,
                max_new_tokens=room if limit is None else min(limit, room),
                cache_salt=self.tenant,
            )
            job = Job(self.served.engine, ask.prompt, sampling, notify)
            text = TextStream(decoder(), ask.sampling.stop, strips=ask.strips)
            self.replies.append(Reply(job=job, text=text))
            self.jobs.append(job)
            self.registry.worker.submit(job)
        return news

    async def steps(self) -> AsyncGenerator[Step]:
        """What each token adds, as the tokens come."""
        deadline = self.registry.settings.request_timeout
        try:
            news = self.start()
            async with asyncio.timeout(deadline or None):
                while any(reply.finish is None for reply in self.replies):
                    await news.wait()
                    news.clear()
                    for index, reply in enumerate(self.replies):
                        for step in self.advance(index, reply):
                            yield step
        except TimeoutError as error:
            raise ApiError(
                503,
                f"the request took more than {deadline:g} seconds; ask for fewer tokens",
                code="timeout",
                retry_after=10,
            ) from error
        finally:
            self.cancel()

    def advance(self, index: int, reply: Reply) -> list[Step]:
        """The steps of one reply that there are by now."""
        steps: list[Step] = []
        outputs = reply.job.outputs
        while outputs and reply.finish is None:
            output = outputs.popleft()
            if output.error is not None:
                raise self.explain(reply, output.error)
            if output.prompt_logprobs is not None:
                reply.prompt_logprobs = output.prompt_logprobs
            reply.num_cached = max(reply.num_cached, output.num_cached)
            is_text = output.token is not None and output.token not in reply.job.stop_ids
            reply.num_new += output.token is not None
            piece = reply.text.push(output.token) if is_text and output.token is not None else ""
            finish: str | None = output.finish
            if reply.text.stopped:
                finish = reply.job.finish = "stop"
                del reply.job.tokens[reply.num_new :]
                self.registry.worker.cancel(reply.job)
            if finish is not None:
                if finish == "length":  # half a character that the limit has cut is no mistake
                    reply.text.decoder.decoder.reset()
                piece += reply.text.flush()
                reply.finish = finish
            token = output.token if is_text else None
            steps.append(Step(index=index, text=piece, output=output, token=token, finish=finish))
        return steps

    def explain(self, reply: Reply, error: Exception) -> ApiError:
        """What the client is told of a job's error."""
        if reply.job.was_refused:
            word = str(error).split(" ", 1)[0]
            return invalid(str(error), word if word == "logit_bias" else None)
        told = failure(error)
        if told.status_code >= 500:
            log.error("a request failed in the engine", exc_info=error)
        return told

    def cancel(self) -> None:
        """Give up what has not ended."""
        for reply in self.replies:
            if reply.finish is None:
                self.registry.worker.cancel(reply.job)

    @property
    def num_prompt(self) -> int:
        """Tokens of all different prompts."""
        seen = {id(ask.prompt): len(ask.prompt.tokens) for ask in self.asks}
        return sum(seen.values())

    @property
    def num_cached(self) -> int:
        """Prompt tokens that were found in the prefix cache by the first of each prompt's jobs."""
        found: dict[int, int] = {}
        for ask, reply in zip(self.asks, self.replies, strict=False):
            found.setdefault(id(ask.prompt), reply.num_cached)
        return sum(found.values())

    @property
    def num_new(self) -> int:
        """Tokens of all replies."""
        return sum(reply.num_new for reply in self.replies)

    def usage(self) -> dict[str, object]:
        """OpenAI's `usage`."""
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": self.num_new,
            "total_tokens": self.num_prompt + self.num_new,
            "prompt_tokens_details": {"cached_tokens": self.num_cached},
        }


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())
