"""`/metrics`: numbers for Prometheus, under names that dashboards of other engines know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, cast

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import Counter as PlainCounter
from prometheus_client import Histogram as PlainHistogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from chatglm.serve.record import Record
from chatglm.serve.worker import Job, Observer

if TYPE_CHECKING:
    from chatglm.serve.registry import Registry

router = APIRouter()
Numbers = Mapping[str, Mapping[str, float]]
"""What engines say of themselves: by the model's name, by the names of GAUGES and COUNTERS."""
GAUGES = {
    "num_requests_running": "Requests that hold room in the cache",
    "num_requests_waiting": "Requests in the queue",
    "kv_cache_usage_perc": "Share of the cache in use, 0 to 1",
}
COUNTERS = {
    "num_preemptions": "Requests sent back to the queue",
    "prefix_cache_queries": "Prompt tokens looked for in the prefix cache",
    "prefix_cache_hits": "Prompt tokens found there",
}
SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
REFUSALS = {401: "invalid_api_key", 413: "too_large", 429: "queue_full", 503: "unavailable"}
"""Statuses that say a request was not taken, and why where the error has no code of its own."""
SHORT = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics(Observer, Collector):
    """What is counted while the server runs, and what the engines say when they are asked.

    engines: asks them; they are none until there are models.
    """

    def __init__(self) -> None:
        self.numbers = CollectorRegistry(auto_describe=False)
        self.engines: Callable[[], Numbers] = dict
        self.prompt_tokens = self.counter("prompt_tokens", "Tokens of prompts")
        self.generation_tokens = self.counter("generation_tokens", "Tokens of replies")
        self.success = self.counter("request_success", "Replies that ended", "finished_reason")
        self.cancelled = self.counter("requests_cancelled", "Requests given up", "cause")
        self.rejections = self.counter("admission_rejections", "Requests refused", "reason")
        self.requests = self.counter("http_requests", "Responses by status", "status")
        self.first_token = self.histogram("time_to_first_token_seconds", "To the first token")
        self.between = self.histogram("inter_token_latency_seconds", "Between tokens", SHORT)
        self.whole = self.histogram("e2e_request_latency_seconds", "Whole requests")
        self.queue = self.histogram("request_queue_time_seconds", "In the queue")
        self.numbers.register(self)

    def counter(self, name: str, meaning: str, *labels: str) -> PlainCounter:
        """A counter; `_total` is added to its name."""
        return PlainCounter(f"chatglm:{name}", f"{meaning}.", labels, registry=self.numbers)

    def histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...] = SECONDS
    ) -> PlainHistogram:
        """Seconds in buckets."""
        return PlainHistogram(
            f"chatglm:{name}", f"Seconds: {meaning}.", registry=self.numbers, buckets=buckets
        )

    # The worker's thread tells these.

    def queued(self, job: Job) -> None:
        if job.started is not None:
            self.queue.observe(job.started - job.submitted)

    def token(self, job: Job, seconds: float | None) -> None:
        self.generation_tokens.inc()
        if seconds is not None:
            self.between.observe(seconds)
            return
        self.prompt_tokens.inc(len(job.prompt.tokens))
        if job.last is None and job.first is None:
            self.first_token.observe(job.now - job.submitted)

    # The server's loop tells this.

    def request(self, record: Record, seconds: float) -> None:
        """A request is over."""
        self.requests.labels(str(record.status)).inc()
        if record.status in REFUSALS:
            self.rejections.labels(record.code or REFUSALS[record.status]).inc()
        if record.finishes:
            self.whole.observe(seconds)
        for finish in record.finishes:
            if finish != "cancelled":
                self.success.labels(finish).inc()
            else:
                cause = "disconnect" if record.status in (200, 499) else "error"
                self.cancelled.labels(cause).inc()
        self.elsewhere(record.elsewhere)

    def elsewhere(self, fields: Mapping[str, object]) -> None:
        """What a replica has told of a request."""
        for name, counter in (
            ("prompt_tokens", self.prompt_tokens),
            ("completion_tokens", self.generation_tokens),
        ):
            counter.inc(cast(int, fields.get(name, 0)))
        if "ttft" in fields:
            self.first_token.observe(cast(float, fields["ttft"]))

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """What the engines say now, model by model."""
        said = self.engines()
        for kind, meanings in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, meaning in meanings.items():
                family = kind(f"chatglm:{name}", meaning, labels=["model_name"])
                for model, numbers in said.items():
                    family.add_metric([model], numbers[name])
                yield family

    def text(self) -> bytes:
        """All of it, in Prometheus' format."""
        return generate_latest(self.numbers)


def numbers_of(registry: Registry) -> Numbers:
    """What each engine says now, told once whatever names and adapters it serves."""
    first = {id(served.engine): served for served in reversed(registry.served.values())}
    return {
        served.name: {
            "num_requests_running": served.engine.num_running,
            "num_requests_waiting": served.engine.num_waiting,
            "kv_cache_usage_perc": served.engine.cache_usage,
            "num_preemptions": served.engine.num_preemptions,
            "prefix_cache_queries": served.engine.prefixes.num_queries,
            "prefix_cache_hits": served.engine.prefixes.num_hits,
        }
        for served in first.values()
    }


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Everything that is counted."""
    text = await asyncio.to_thread(request.app.state.metrics.text)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
