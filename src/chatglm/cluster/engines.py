"""What the engines of all replicas say together, for the door's `/metrics`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from chatglm.serve.metrics import COUNTERS, GAUGES, Numbers

SHARES = {"kv_cache_usage_perc"}
"""Gauges of which the mean is told: replicas are alike."""
Told = tuple[str, Numbers]
"""What a replica says: a name of its own, and the numbers of its engines."""


class Engines:
    """Asks all replicas; the counts of those that are gone stay in the sums.

    ask: what each replica says that there is.
    """

    def __init__(self, ask: Callable[[], Iterable[Told]]) -> None:
        self.ask = ask
        self.last: dict[str, Numbers] = {}
        self.lock = threading.Lock()

    def __call__(self) -> Numbers:
        """The numbers by model: gauges of the replicas that answer now, counts of all so far."""
        with self.lock:  # an older answer may not replace a newer one: counts never fall
            now = dict(self.ask())
            self.last |= now
            everyone = list(self.last.values())
        models = dict.fromkeys(model for numbers in everyone for model in numbers)
        return {model: total(model, list(now.values()), everyone) for model in models}


def total(model: str, now: list[Numbers], everyone: list[Numbers]) -> dict[str, float]:
    """The numbers of one model in all replicas."""
    told = {name: sum(numbers[model][name] for numbers in now) for name in GAUGES}
    for name in SHARES:
        told[name] /= max(len(now), 1)
    return told | {name: sum(numbers[model][name] for numbers in everyone) for name in COUNTERS}
