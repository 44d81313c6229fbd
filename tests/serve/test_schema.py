"""R1: requests made from the service's own description, right and wrong ones, by schemathesis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serve.conftest import Running
from tests.serve.described import try_all

pytest.importorskip("schemathesis", reason="needs schemathesis")


@pytest.fixture(scope="module")
def short(launch: Callable[..., Running], toy: Path) -> Running:
    """A tiny model with so short a context that every reply is quick."""
    return launch("--model", f"toy={toy}", "--max-model-len", "64", "--accept-any-model")


def test_no_request_of_the_description_breaks_the_server(short: Running) -> None:
    assert try_all(short, 20) > 60


@pytest.mark.whole
def test_ten_thousand_requests_of_the_description_break_nothing(short: Running) -> None:
    assert try_all(short, 2500) >= 10_000
