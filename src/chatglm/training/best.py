"""Which checkpoint has the lowest held-out loss so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(kw_only=True)
class Best:
    """loss: the lowest `validation_loss`, at `step`; waited: validations since then."""

    loss: float | None = None
    step: int = -1
    waited: int = 0

    @property
    def name(self) -> str:
        """The checkpoint's name; empty while there is none."""
        return f"step-{self.step:06d}" if self.step >= 0 else ""

    def take(self, row: Mapping[str, float], step: int) -> bool:
        """Take a validation into account; whether it is the lowest."""
        loss = row.get("validation_loss")
        if loss is None:
            return False
        if self.loss is None or loss < self.loss:
            self.loss, self.step, self.waited = loss, step, 0
            return True
        self.waited += 1
        return False

    def state(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)

    @staticmethod
    def from_state(state: object) -> Best:
        """What `state` gave; a fresh one from None."""
        if not isinstance(state, Mapping):
            return Best()
        return Best(loss=state["loss"], step=int(state["step"]), waited=int(state["waited"]))
