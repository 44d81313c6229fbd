"""What the engines of several replicas say together, replicas coming and going."""

from __future__ import annotations

from chatglm.cluster.engines import Engines, Told
from chatglm.serve.metrics import COUNTERS, GAUGES


def told(name: str, gauge: float, count: float, *models: str) -> Told:
    """What a replica says whose gauges and counters are all alike."""
    numbers = dict.fromkeys(GAUGES, gauge) | dict.fromkeys(COUNTERS, count)
    return name, dict.fromkeys(models or ("toy",), numbers)


def test_counts_and_gauges_are_summed_and_the_use_of_caches_is_their_mean() -> None:
    total = Engines(lambda: [told("a", 0.25, 10), told("b", 0.75, 5)])()["toy"]
    assert {total[name] for name in COUNTERS} == {15}
    assert (total["num_requests_running"], total["num_requests_waiting"]) == (1, 1)
    assert total["kv_cache_usage_perc"] == 0.5


def test_a_lost_replica_leaves_its_counts_and_none_of_its_gauges() -> None:
    said = [[told("a", 1, 10), told("b", 1, 5)], [told("b", 1, 6)], [], [told("c", 1, 1)]]
    rounds = iter(said)
    engines = Engines(lambda: next(rounds))
    found = [engines()["toy"] for _ in said]
    assert [total["num_preemptions"] for total in found] == [15, 16, 16, 17]
    assert [total["num_requests_running"] for total in found] == [2, 1, 0, 1]
    assert [total["kv_cache_usage_perc"] for total in found] == [1, 1, 0, 1]


def test_every_model_has_numbers_of_its_own() -> None:
    found = Engines(lambda: [told("a", 1, 3, "toy", "other"), told("b", 1, 4, "toy", "other")])()
    assert {name: total["prefix_cache_hits"] for name, total in found.items()} == {
        "toy": 7,
        "other": 7,
    }


def test_nothing_is_told_before_a_replica_has_answered() -> None:
    assert Engines(list)() == {}
