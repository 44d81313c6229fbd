"""Who runs and who waits, without a tensor."""

from __future__ import annotations

import random

import pytest

from chatglm.generation.scheduler import Scheduler


class Load:
    """Random arrivals, lengths, limits and cancellations on a scheduler."""

    def __init__(self, num_requests: int, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.num_requests = num_requests
        self.scheduler = Scheduler(
            num_blocks=chance.randint(8, 40), block_size=4, max_num_seqs=chance.randint(1, 8)
        )
        self.length: dict[int, int] = {}
        self.limit: dict[int, int] = {}
        self.admitted: list[int] = []
        self.gone: list[int] = []

    def arrive(self) -> None:
        most = self.scheduler.num_blocks * self.scheduler.block_size
        for _ in range(self.chance.choice((0, 0, 1, 2, 5))):
            request = len(self.limit)
            if request < self.num_requests:
                self.length[request] = self.chance.randint(1, most // 2)
                self.limit[request] = self.chance.randint(self.length[request] + 1, most)
                self.scheduler.add(request, self.length[request] + 1, self.limit[request])

    def leave(self, request: int) -> None:
        assert self.scheduler.remove(request)
        del self.length[request]
        self.gone.append(request)

    def step(self) -> None:
        self.admitted += [i for i in self.scheduler.admit() if i not in self.admitted]
        for request in list(self.scheduler.running):
            if request in self.scheduler.running:
                self.scheduler.extend(request, self.length[request] + 1)
        for request in list(self.scheduler.running):
            self.length[request] += 1
            if self.length[request] >= self.limit[request]:
                self.leave(request)
        if self.length and self.chance.random() < 0.05:
            self.leave(self.chance.choice(sorted(self.length)))

    def check(self) -> None:
        scheduler = self.scheduler
        held = sum(claim.num_blocks for claim in scheduler.running.values())
        assert scheduler.num_free + held == scheduler.num_blocks
        assert scheduler.num_free >= 0
        assert len(scheduler.running) <= scheduler.max_num_seqs
        order = [*scheduler.running, *scheduler.waiting]
        assert order == sorted(order), "whoever runs came before whoever waits"
        assert set(order) == set(self.length)


def run_random_load(num_requests: int, seed: int) -> int:
    """Runs a load to its end; the number of preemptions."""
    load = Load(num_requests, seed)
    while len(load.limit) < num_requests or load.length:
        load.arrive()
        load.step()
        load.check()
    assert sorted(load.gone) == list(range(num_requests))
    assert load.admitted == sorted(load.admitted)
    assert load.scheduler.num_free == load.scheduler.num_blocks
    return load.scheduler.num_preemptions


def test_a_random_load_leaks_loses_and_starves_nothing() -> None:
    assert sum(run_random_load(100, seed) for seed in range(10)) > 0


@pytest.mark.whole
def test_ten_thousand_random_requests_leak_lose_and_starve_nothing() -> None:
    assert sum(run_random_load(1000, seed) for seed in range(10)) > 0


def test_the_youngest_goes_back_to_the_head_of_the_queue() -> None:
    scheduler = Scheduler(num_blocks=4, block_size=4, max_num_seqs=4)
    for request in range(3):
        scheduler.add(request, 5, 16)
    assert scheduler.admit() == [0, 1]
    assert scheduler.extend(0, 9) == [1]
    assert list(scheduler.waiting) == [1, 2]
    assert scheduler.admit() == []
    scheduler.remove(0)
    assert scheduler.admit() == [1, 2]


def test_a_request_that_could_never_run_is_refused() -> None:
    scheduler = Scheduler(num_blocks=4, block_size=4, max_num_seqs=4)
    with pytest.raises(ValueError, match="may come to 17 tokens and the cache holds 16"):
        scheduler.add(0, 3, 17)


def test_removing_what_is_not_there_is_no_error() -> None:
    assert not Scheduler(num_blocks=1, max_num_seqs=1).remove(5)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_blocks must be at least 1, got 0"):
        Scheduler(num_blocks=0, max_num_seqs=1)
