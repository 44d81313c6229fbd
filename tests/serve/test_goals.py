"""The goals of reliability at the counts of every run, and whole where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serve import goals
from tests.serve.conftest import Running


@pytest.fixture(scope="module")
def small(launch: Callable[..., Running], toy: Path) -> Running:
    """A tiny model with a short context, so that no reply is long; few may run, few may wait."""
    flags = ["--model", f"toy={toy}", "--max-model-len", "256"]
    return launch(
        *flags,
        "--max-num-seqs",
        "8",
        "--max-queue",
        "24",
        "--body-timeout",
        "3",
        "--header-timeout",
        "2",
    )


def test_spoiled_requests_are_refused_and_harm_nothing(toy_server: Running) -> None:
    told = goals.mutated_requests(toy_server, 300)
    assert told["refused"] > 100


def test_many_streams_at_once_are_what_each_is_alone(toy_server: Running) -> None:
    goals.streams_at_once(toy_server, 24, seconds=0)


def test_clients_that_hang_up_leave_nothing_behind(toy_server: Running) -> None:
    assert goals.hang_ups(toy_server, 60)["cancelled"] > 10


def test_slow_clients_are_closed_and_others_served(small: Running) -> None:
    goals.slow_clients(small, 60, seconds=1)


def test_schemas_that_are_meant_to_hurt_are_refused(toy_server: Running) -> None:
    assert goals.grammar_bombs(toy_server)["refused"] > 5


def test_constrained_replies_of_random_weights_are_always_valid(toy_server: Running) -> None:
    goals.constrained_samples(toy_server, 40)


def test_memory_and_files_come_to_rest(toy_server: Running) -> None:
    assert goals.soak(toy_server, 4)["open_files_grown"] < 10


def test_a_full_queue_refuses_and_a_stop_loses_nothing(small: Running) -> None:
    goals.full_queue(small, limit=32, more=20)
    goals.drained(small, 20)


@pytest.mark.whole
@pytest.mark.parametrize("name", ["R2", "R3", "R4", "R5", "R7", "R14", "R17"])
def test_the_goals_hold_at_their_whole_counts(
    name: str, launch: Callable[..., Running], toy: Path
) -> None:
    flags = ["--model", f"toy={toy}", "--max-num-seqs", "256", "--max-queue", "512"]
    server = launch(*flags)
    if name == "R2":
        assert goals.mutated_requests(server, 20_000)["grown_mb"] < 50
    elif name == "R3":
        goals.streams_at_once(server, 256, seconds=300)
    elif name == "R4":
        goals.hang_ups(server, 1000)
    elif name == "R5":
        told = goals.slow_clients(server, 1000)
        assert told["head_closed_s"] < 15
        assert told["body_closed_s"] < 30
    elif name == "R7":
        goals.full_queue(server, limit=768, more=100)
        goals.drained(server, 100)
    elif name == "R14":
        goals.grammar_bombs(server)
        goals.constrained_samples(server, 2000)
    else:
        goals.soak(server, 20 * 60)
