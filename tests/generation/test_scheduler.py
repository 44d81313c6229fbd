"""Who runs and who waits, without a tensor."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from chatglm.generation.blocks import BlockPool, extend_keys, root_key
from chatglm.generation.scheduler import Scheduler

SIZE = 4
STARTS = [[s * 100 + i for i in range(24)] for s in range(4)]  # prompts that many begin with


class Load:
    """Random arrivals, lengths, limits, shared beginnings, forks and cancellations.

    `content` is what a cache of one number per slot would hold: a request must always find its own
    tokens in its blocks.
    """

    def __init__(self, num_requests: int, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.num_requests = num_requests
        self.scheduler = Scheduler(
            num_blocks=chance.randint(8, 40), block_size=SIZE, max_num_seqs=chance.randint(1, 8)
        )
        self.content = [[-1] * SIZE for _ in range(self.scheduler.num_blocks)]
        self.tokens: dict[int, list[int]] = {}
        self.read: dict[int, int] = {}
        self.limit: dict[int, int] = {}
        self.admitted: list[int] = []
        self.gone: list[int] = []
        self.num_found = self.num_copies = self.num_forks = 0

    def arrive(self) -> None:
        most = self.scheduler.num_blocks * SIZE
        for _ in range(self.chance.choice((0, 0, 1, 2, 5))):
            request = len(self.limit)
            if request == self.num_requests:
                return
            start = self.chance.choice(STARTS)[: self.chance.randint(0, 24)]
            length = self.chance.randint(1, most // 2)
            tokens = [*start, *(self.chance.randint(0, 9) for _ in range(length))][:length]
            self.tokens[request] = tokens
            self.limit[request] = self.chance.randint(length + 1, most)
            keys: list[bytes] = []
            extend_keys(keys, tokens[:-1], b"root", SIZE)
            self.scheduler.add(request, length + 1, self.limit[request], keys=keys)

    def leave(self, request: int) -> None:
        assert self.scheduler.remove(request)
        assert not self.scheduler.remove(request)
        del self.tokens[request]
        self.read.pop(request, None)
        self.gone.append(request)

    def write(self, request: int, start: int, stop: int) -> None:
        blocks = self.scheduler.running[request].blocks
        for slot in range(start, stop):
            assert self.scheduler.pool.counts[blocks[slot // SIZE]] == 1, "written while shared"
            self.content[blocks[slot // SIZE]][slot % SIZE] = self.tokens[request][slot]
        self.read[request] = stop
        keys: list[bytes] = []
        extend_keys(keys, self.tokens[request][:stop], b"root", SIZE)
        self.scheduler.keep(request, keys)

    def begin(self, request: int) -> None:
        found = self.scheduler.find_again(request) * SIZE
        self.num_found += found
        if not self.fork(request):
            self.write(request, found, len(self.tokens[request]))
        self.go_on(request)

    def fork(self, request: int) -> bool:
        """Take a running request's blocks where it goes on from the same tokens."""
        mine = self.tokens[request]
        for other in self.read:
            theirs = self.tokens[other][: self.read[other]]
            if self.chance.random() < 0.3 and len(mine) % SIZE and theirs[: len(mine)] == mine:
                self.scheduler.fork({request: other}, len(mine))
                self.read[request] = len(mine)
                self.num_forks += 1
                return True
        return False

    def go_on(self, request: int) -> None:
        """A new token, to be read in the next step; or the end."""
        if len(self.tokens[request]) >= self.limit[request]:
            self.leave(request)
        else:
            self.tokens[request].append(self.chance.randint(0, 9))

    def decode(self, request: int) -> None:
        tokens, start = self.tokens[request], self.read[request]
        preempted = self.scheduler.extend(request, len(tokens))
        if request not in preempted:
            copies, more = self.scheduler.own(request, start)
            preempted += more
            for source, target in copies:
                self.content[target] = list(self.content[source])
                self.num_copies += 1
        for victim in preempted:
            self.read.pop(victim, None)
            self.scheduler.require(victim, len(self.tokens[victim]))
        if request not in preempted:
            self.write(request, start, len(tokens))
            self.go_on(request)

    def step(self) -> None:
        for request in list(self.scheduler.running):
            if request in self.scheduler.running and request in self.read:
                self.decode(request)
        admitted = self.scheduler.admit()
        self.admitted += [i for i in admitted if i not in self.admitted]
        for request in admitted:
            self.begin(request)
        if self.tokens and self.chance.random() < 0.05:
            self.leave(self.chance.choice(sorted(self.tokens)))

    def check(self) -> None:
        scheduler, pool = self.scheduler, self.scheduler.pool
        held = Counter(b for claim in scheduler.running.values() for b in claim.blocks)
        assert pool.counts == [held[block] for block in range(pool.num_blocks)]
        assert set(pool.free) == set(range(pool.num_blocks)) - set(held)
        assert {key: block for block, key in enumerate(pool.keys) if key} == pool.known
        assert len(scheduler.running) <= scheduler.max_num_seqs
        order = [*scheduler.running, *scheduler.waiting]
        assert order == sorted(order), "whoever runs came before whoever waits"
        assert set(order) == set(self.tokens)
        for request, claim in scheduler.running.items():
            slots = [token for block in claim.blocks for token in self.content[block]]
            kept = self.read[request]
            assert slots[:kept] == self.tokens[request][:kept], "another's tokens"


def run_random_load(num_requests: int, seed: int) -> Load:
    """A load that was run to its end."""
    load = Load(num_requests, seed)
    while len(load.limit) < num_requests or load.tokens:
        oldest = min(load.tokens, default=None)
        before = None if oldest is None else (load.read.get(oldest, 0), len(load.tokens[oldest]))
        load.arrive()
        load.step()
        load.check()
        if oldest in load.tokens:
            after = (load.read.get(oldest, 0), len(load.tokens[oldest]))
            assert after > before, "the oldest got no further"
    assert sorted(load.gone) == list(range(num_requests))
    assert load.admitted == sorted(load.admitted)
    assert load.scheduler.num_free == load.scheduler.num_blocks
    return load


def run_loads(num_loads: int, num_requests: int) -> None:
    loads = [run_random_load(num_requests, seed) for seed in range(num_loads)]
    assert sum(load.scheduler.num_preemptions for load in loads) > 0
    assert sum(load.num_found for load in loads) > 0
    assert sum(load.num_forks for load in loads) > 0
    assert sum(load.num_copies for load in loads) > 0


def test_a_random_load_leaks_loses_and_starves_nothing() -> None:
    run_loads(10, 100)


@pytest.mark.whole
def test_ten_thousand_random_requests_leak_lose_and_starve_nothing() -> None:
    run_loads(10, 1000)


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


def keys_of(tokens: list[int], root: bytes = b"") -> list[bytes]:
    keys: list[bytes] = []
    extend_keys(keys, tokens, root, SIZE)
    return keys


def test_a_key_stands_for_its_block_and_all_before_it() -> None:
    one, other = keys_of([1, 2, 3, 4, 5, 6, 7, 8, 9]), keys_of([0, 2, 3, 4, 5, 6, 7, 8])
    assert len(one) == len(other) == 2
    assert not set(one) & set(other)
    assert keys_of([1, 2, 3, 4]) == one[:1]
    salted = {root_key(None), root_key("a"), root_key("b"), root_key("a", "b"), root_key("ab")}
    assert len(salted) == 5


def test_free_blocks_of_unknown_content_go_first_then_those_unused_longest() -> None:
    pool = BlockPool(4)
    blocks = pool.take(3)
    keys = keys_of(list(range(12)))
    for block, key in zip(blocks, keys, strict=True):
        pool.keep(block, key)
    pool.release(blocks)
    assert pool.find(keys) == blocks
    pool.take(2)  # the one never used, then the last of the chain
    assert pool.find(keys) == blocks[:2]
    pool.take(1)
    assert pool.find(keys) == blocks[:1]
    pool.forget_all()
    assert pool.find(keys) == []


def test_a_prompt_that_was_read_before_is_found_even_after_its_admission() -> None:
    scheduler = Scheduler(num_blocks=8, block_size=SIZE, max_num_seqs=4)
    tokens = list(range(10))
    for request in range(2):
        scheduler.add(request, 11, 12, keys=keys_of(tokens[:-1]))
    assert scheduler.admit() == [0, 1]
    assert scheduler.num_free == 2
    assert scheduler.find_again(0) == 0
    scheduler.keep(0, keys_of(tokens))
    assert scheduler.find_again(1) == 2
    assert scheduler.num_free == 4
    assert scheduler.running[0].blocks[:2] == scheduler.running[1].blocks[:2]


def test_who_writes_into_a_shared_block_gets_a_copy() -> None:
    scheduler = Scheduler(num_blocks=8, block_size=SIZE, max_num_seqs=4)
    for request in range(2):
        scheduler.add(request, 7, 12)
    scheduler.admit()
    scheduler.fork({1: 0}, 6)
    first, last = scheduler.running[0].blocks
    assert scheduler.running[1].blocks == [first, last]
    copies, preempted = scheduler.own(1, 6)
    assert preempted == []
    assert copies == [(last, scheduler.running[1].blocks[1])]
    assert scheduler.own(0, 6) == ([], [])
