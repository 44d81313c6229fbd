"""`/v1/chat/completions`: the next turn of a conversation, whole or streamed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from chatglm.generation.constrain import Constraint
from chatglm.generation.sampling import Sampling
from chatglm.messages import Tool
from chatglm.prompt import Prompt
from chatglm.serve.errors import invalid
from chatglm.serve.events import DONE, event
from chatglm.serve.generation import Ask, Generation, now
from chatglm.serve.parse import Delta, ReplyParser, make_parser
from chatglm.serve.protocol.chat import ChatBody
from chatglm.serve.registry import Registry, Served
from chatglm.serve.scores import chat_logprobs
from chatglm.serve.tools import constraint_of


@dataclass(kw_only=True)
class Turn:
    """One reply as a message, while it comes."""

    parser: ReplyParser
    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, object]] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    logprobs: list[dict[str, object]] = field(default_factory=list)
    finish: str | None = None
    num_reasoning: int = 0
    num_held: int = 0

    def count(self, deltas: Sequence[Delta]) -> None:
        """One token more, and what it and those held back before it have turned out to be."""
        self.num_held += 1
        if deltas:
            self.num_reasoning += self.num_held if deltas[0].reasoning else 0
            self.num_held = 0

    def take(self, delta: Delta) -> dict[str, object]:
        """Add a delta; what a stream says of it."""
        if delta.reasoning:
            self.reasoning += delta.reasoning
            return {"reasoning_content": delta.reasoning}
        if delta.call is None:
            self.content += delta.content
            return {"content": delta.content}
        told: dict[str, object] = {"index": delta.call}
        function: dict[str, object] = {"arguments": delta.arguments}
        if delta.name:
            told |= {"id": f"call_{secrets.token_hex(12)}", "type": "function"}
            function = {"name": delta.name, **function}
            self.calls.append({**told, "name": delta.name})
            self.arguments.append("")
        self.arguments[delta.call] += delta.arguments
        return {"tool_calls": [{**told, "function": function}]}

    def end(self, finish: str) -> str:
        """The reply's `finish_reason`."""
        self.finish = "tool_calls" if self.calls and finish == "stop" else finish
        return self.finish

    def message(self) -> dict[str, object]:
        """The whole turn."""
        message: dict[str, object] = {
            "role": "assistant",
            "content": self.content if self.content or not self.calls else None,
            "refusal": None,
        }
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": arguments},
                }
                for call, arguments in zip(self.calls, self.arguments, strict=True)
            ]
        return message


class Chat:
    """One request for the next turn, ready to run; made in a thread, for it may take a while.

    max_length: most tokens of prompt and reply together, as ChatGLM-6B's api counted.
    """

    def __init__(
        self,
        registry: Registry,
        served: Served,
        body: ChatBody,
        *,
        max_length: int | None = None,
    ) -> None:
        self.served, self.body = served, body
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = now()
        self.template = served.tokenizer.template
        self.tools: list[Tool] = []
        if body.tools and body.tool_choice != "none":
            self.tools = [tool.data() for tool in body.tools]
        prompt = self.prompt()
        sampling = self.sampling()
        if max_length is not None:
            room = max(1, max_length - len(prompt.tokens))
            sampling = replace(sampling, max_new_tokens=room)
        constraint = constraint_of(served, body, self.tools)
        asks = [
            Ask(prompt=prompt, sampling=own(sampling, i, constraint), strips=True)
            for i in range(body.n or 1)
        ]
        self.generation = Generation(registry=registry, served=served, asks=asks)
        self.turns = [
            Turn(parser=make_parser(self.template, self.tools, thinking=body.wants_thinking))
            for _ in asks
        ]

    def prompt(self) -> Prompt:
        """The conversation in the model's own format."""
        body, served = self.body, self.served
        if not self.template.is_chat:
            raise invalid(f"{served.name} knows no chat; use /v1/completions", "model")
        served.check_size("".join(message.text for message in body.messages), "messages")
        try:
            messages = [message.message() for message in body.messages]
            prompt = self.template.prompt(
                messages, tools=self.tools or None, thinking=body.wants_thinking
            )
        except (ValueError, KeyError, AttributeError) as error:
            raise invalid(f"the conversation cannot be written: {error}", "messages") from error
        served.check_length(prompt, "messages")
        return prompt

    def sampling(self) -> Sampling:
        """How the replies are drawn."""
        body = self.body
        settings = body.settings()
        settings["max_new_tokens"] = body.limit
        sampling = self.served.sampling(settings)
        if body.logprobs:
            sampling = replace(sampling, logprobs=body.top_logprobs or 0)
        return sampling

    async def whole(self) -> dict[str, object]:
        """The response in one piece."""
        async with aclosing(self.deltas()) as deltas:
            async for _ in deltas:
                pass
        choices = [
            {
                "index": index,
                "message": turn.message(),
                "logprobs": {"content": turn.logprobs, "refusal": None}
                if self.body.logprobs
                else None,
                "finish_reason": turn.finish,
            }
            for index, turn in enumerate(self.turns)
        ]
        head = self.head("chat.completion")
        return {**head, "choices": choices, "usage": self.usage()}

    async def deltas(
        self,
    ) -> AsyncGenerator[tuple[int, dict[str, object], Sequence[dict[str, object]], str | None]]:
        """Index, delta, log-probabilities and finish of every reply, as they come."""
        decode = self.served.tokenizer.bytes_of
        async with aclosing(self.generation.steps()) as steps:
            async for step in steps:
                turn = self.turns[step.index]
                scores: list[dict[str, object]] = []
                if self.body.logprobs and step.token is not None and step.output is not None:
                    scores = [chat_logprobs(step.output, decode)]
                    turn.logprobs += scores
                parsed = turn.parser.push(step.text)
                if step.token is not None:
                    turn.count(parsed)
                if step.finish is not None:
                    parsed += turn.parser.flush()
                for delta in parsed:
                    if delta.call and self.body.parallel_tool_calls is False:
                        continue  # one call is all that was asked for
                    yield step.index, turn.take(delta), scores, None
                    scores = []
                if step.finish is not None:
                    yield step.index, {}, scores, turn.end(step.finish)
                elif scores:
                    yield step.index, {}, scores, None

    async def events(self) -> AsyncGenerator[bytes]:
        """The response as a stream of events."""
        head = self.head("chat.completion.chunk")
        if self.body.wants_usage:
            head["usage"] = None
        for index in range(len(self.turns)):
            first: dict[str, object] = {"role": "assistant", "content": "", "refusal": None}
            yield event({**head, "choices": [chunk(index, first)]})
        async with aclosing(self.deltas()) as deltas:
            async for index, delta, scores, finish in deltas:
                logprobs: dict[str, object] | None = None
                if scores:
                    logprobs = {"content": list(scores), "refusal": None}
                yield event({**head, "choices": [chunk(index, delta, logprobs, finish)]})
        if self.body.wants_usage:
            yield event({**head, "choices": [], "usage": self.usage()})
        yield DONE

    def usage(self) -> dict[str, object]:
        """OpenAI's `usage`, thoughts told apart."""
        details = {"reasoning_tokens": self.num_reasoning}
        return {**self.generation.usage(), "completion_tokens_details": details}

    @property
    def num_reasoning(self) -> int:
        """Tokens of thoughts in all replies."""
        return sum(turn.num_reasoning for turn in self.turns)

    def head(self, kind: str) -> dict[str, object]:
        """What every object of this response begins with."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
            "service_tier": None,
        }


def chunk(
    index: int,
    delta: dict[str, object],
    logprobs: dict[str, object] | None = None,
    finish: str | None = None,
) -> dict[str, object]:
    """A choice of a chunk."""
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def own(sampling: Sampling, index: int, constraint: Constraint | None = None) -> Sampling:
    """The settings of the n-th reply to one prompt: its own seed, its own place in the form."""
    if sampling.seed is not None and index:
        sampling = replace(sampling, seed=(sampling.seed + index * 0x9E3779B97F4A7C15) % (1 << 63))
    return sampling if constraint is None else replace(sampling, processor=constraint.copy())
