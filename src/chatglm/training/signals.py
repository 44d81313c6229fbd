"""Ctrl-C and SIGTERM: noted at once, heeded after the step in hand."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol


class Stoppable(Protocol):
    """What is told that it should stop."""

    stop_signal: int | None


class Interrupted(RuntimeError):
    """Asked to stop by a signal, after saving."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}, saved; "
            "the same command goes on from here"
        )
        self.number = number


@contextmanager
def heed_signals(run: Stoppable) -> Iterator[None]:
    """SIGINT and SIGTERM are noted, and heeded after the step in hand."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        run.stop_signal = number
        print("stopping after this step …", file=sys.stderr, flush=True)

    before: dict[int, object] = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
