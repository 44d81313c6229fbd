"""The models of a server by name, and what each request may ask of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import cast

from chatglm.generation.chat import ChatGLM, Options
from chatglm.generation.constrain import Grammars
from chatglm.generation.engine import Engine
from chatglm.generation.sampling import Sampling
from chatglm.prompt import Prompt
from chatglm.serve.errors import ApiError, invalid
from chatglm.serve.record import Record
from chatglm.serve.settings import Settings
from chatglm.serve.shared import SharedChatGLM
from chatglm.serve.worker import Worker
from chatglm.tokenizer.base import Tokenizer


class Served:
    """A model under the name that requests know it by.

    max_length: tokens that prompt and reply may have together.
    """

    def __init__(self, name: str, model: ChatGLM, most: int | None = None) -> None:
        self.name = name
        self.model = model
        own = model.config.max_length
        self.max_length = own if most is None else min(own, most)
        self.created = int(time.time())

    @property
    def engine(self) -> Engine:
        """Its engine; only the worker's thread may change it."""
        return self.model.engine

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return self.model.tokenizer

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token."""
        ids = range(self.tokenizer.vocab_size)
        return max((len(self.tokenizer.bytes_of(i)) for i in ids), default=1) or 1

    @cached_property
    def grammars(self) -> Grammars:
        """What compiles forms for this vocabulary."""
        return Grammars(self.tokenizer, self.model.config.vocab_size, self.engine.stop_ids)

    @cached_property
    def fingerprint(self) -> str:
        """What `system_fingerprint` says: the same for the same weights and dtype."""
        first = next(iter(self.model.transformer.parameters())).detach().flatten()[:4096]
        total = sum(p.numel() for p in self.model.transformer.parameters())
        mark = math.trunc(float(first.float().abs().sum()) * 1e6) ^ total
        return f"fp_{mark & 0xFFFFFFFFFF:010x}"

    def sampling(self, settings: Mapping[str, object]) -> Sampling:
        """The model's own defaults with a request's settings over them."""
        try:
            return self.model.sampling(cast(Options, settings))
        except (ValueError, TypeError) as error:
            raise invalid(str(error), str(error).split(" ")[0]) from error

    def check_size(self, text: str, param: str) -> None:
        """An error where a text cannot fit, told without making its tokens."""
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        least = -(-size // self.longest_token)
        if least >= self.max_length:
            raise self.too_long(f"at least {least}", param)

    def check_length(self, prompt: Prompt, param: str) -> None:
        """An error where a prompt leaves no room for a reply."""
        if len(prompt.tokens) >= self.max_length:
            raise self.too_long(str(len(prompt.tokens)), param)

    def too_long(self, count: str, param: str) -> ApiError:
        """The error of a prompt that does not fit."""
        return invalid(
            f"the prompt has {count} tokens and the context of {self.name} holds "
            f"{self.max_length}, reply included; shorten the prompt",
            param,
            "context_length_exceeded",
        )


class Registry:
    """All models of a server and the worker that runs them."""

    def __init__(self, models: Mapping[str, ChatGLM], settings: Settings, worker: Worker) -> None:
        self.settings = settings
        self.worker = worker
        self.served = {
            name: Served(name, model, settings.max_model_len) for name, model in models.items()
        }
        for served in self.served.values():
            _ = served.longest_token, served.fingerprint
        # Where applications run, beside the server's own loop.
        self.threads = ThreadPoolExecutor(8, thread_name_prefix="chatglm-application")
        self.engines = list({id(s.engine): s.engine for s in self.served.values()}.values())

    @property
    def default(self) -> Served:
        """The first model."""
        return next(iter(self.served.values()))

    def find(self, name: str | None) -> Served:
        """The model of that name; the first where none is named."""
        if name is None:
            return self.default
        if name in self.served:
            return self.served[name]
        if self.settings.accept_any_model:
            return self.default
        known = ", ".join(self.served)
        raise ApiError(
            404,
            f"there is no model {name[:100]!r} here; there is {known}",
            param="model",
            code="model_not_found",
        )

    def room(self, served: Served, num_requests: int) -> None:
        """An error with Retry-After where so many more requests would not fit into the queue."""
        most = self.settings.max_num_seqs + self.settings.max_queue
        waiting = self.worker.outstanding(served.engine)
        if num_requests > most:
            raise invalid(
                f"the request asks for {num_requests} replies and the server takes {most} at most",
                "n",
            )
        if waiting + num_requests > most:
            raise ApiError(
                429,
                f"the queue is full: {waiting} requests run or wait; try again later",
                code="queue_full",
                retry_after=max(1, min(60, waiting // max(self.settings.max_num_seqs, 1))),
            )

    def shared(self, served: Served, record: Record | None = None) -> SharedChatGLM:
        """The model for a thread that wants a `ChatGLM`."""
        return SharedChatGLM(served.model, self.worker, record)
