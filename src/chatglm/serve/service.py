"""Customer service behind HTTP: each base with a thread of its own, opened when first asked."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from chatglm.serve.errands import explained
from chatglm.serve.errors import ApiError
from chatglm.serve.record import Record
from chatglm.serve.registry import Registry, Served
from chatglm.serve.shared import SharedChatGLM

if TYPE_CHECKING:
    from chatglm.apps.support import CustomerService

T = TypeVar("T")
MAX_OPEN = 16


@dataclass(kw_only=True)
class Counter:
    """An open base: its service and the model in it, touched by its own thread only."""

    thread: ThreadPoolExecutor
    model: SharedChatGLM | None = None
    service: CustomerService | None = None


class Counters:
    """The bases that are open, the least used closed first."""

    def __init__(self) -> None:
        self.open: OrderedDict[tuple[str, str, str], Counter] = OrderedDict()

    async def ask(
        self,
        registry: Registry,
        served: Served,
        base: str | None,
        work: Callable[[CustomerService], T],
        record: Record,
        wording: str = "quote",
    ) -> T:
        """What the work with a base's service comes to."""
        name = base if base is not None else await asyncio.to_thread(first_base)
        key = (name, served.name, wording)
        counter = self.open.setdefault(
            key, Counter(thread=ThreadPoolExecutor(1, thread_name_prefix="chatglm-support"))
        )
        self.open.move_to_end(key)
        while len(self.open) > MAX_OPEN:
            _, oldest = self.open.popitem(last=False)
            oldest.thread.submit(close, oldest)
            oldest.thread.shutdown(wait=False)

        def call() -> T:
            if counter.service is None or counter.model is None:
                counter.model = registry.shared(served)
                counter.service = open_service(counter.model, name, wording)
            counter.model.share.record = record
            return work(counter.service)

        try:
            return await asyncio.wrap_future(counter.thread.submit(call))
        except Exception as error:
            raise explained(error) from error

    def close(self) -> None:
        """Close all."""
        for counter in self.open.values():
            counter.thread.submit(close, counter)
            counter.thread.shutdown()
        self.open.clear()


def first_base() -> str:
    """The first of the bases by name."""
    from chatglm.apps.knowledge.home import names

    found = names()
    if not found:
        raise ApiError(
            404,
            "there is no knowledge base; make one with chatglm kb create, or two examples with "
            "chatglm support demo",
            param="base",
            code="base_not_found",
        )
    return found[0]


def open_service(model: SharedChatGLM, base: str, wording: str) -> CustomerService:
    """The service of a base by its name; a path or an address is none."""
    from chatglm.apps.knowledge import KnowledgeBase
    from chatglm.apps.knowledge.home import names
    from chatglm.apps.support import CustomerService

    if base not in names():
        raise ApiError(
            404,
            f"there is no knowledge base {base[:100]!r}; make one with chatglm kb create",
            param="base",
            code="base_not_found",
        )
    return CustomerService(
        KnowledgeBase(base),
        model=model,
        wording="model" if wording == "model" else "quote",
    )


def close(counter: Counter) -> None:
    """Close a base; called in its own thread."""
    if counter.service is not None:
        counter.service.close()
