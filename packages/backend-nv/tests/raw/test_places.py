"""Who gets which piece of memory: ranges, pools and rings."""

from __future__ import annotations

import random

import pytest

from dovetile.errors import ArgumentError, OutOfMemoryError
from dovetile_nv.raw.memory import Memory, Ranges
from dovetile_nv.raw.pool import Pool
from dovetile_nv.raw.ring import Ring


def test_ranges_do_not_meet_and_come_back():
    ranges = Ranges(4096, 1 << 20)
    taken: dict[int, int] = {}
    chance = random.Random(0)
    for _ in range(2000):
        if taken and chance.random() < 0.5:
            start = chance.choice(list(taken))
            ranges.give_back(start, taken.pop(start))
        else:
            size = chance.randrange(1, 3000)
            alignment = chance.choice((1, 64, 4096))
            try:
                start = ranges.take(size, alignment)
            except OutOfMemoryError:
                continue
            assert start % alignment == 0 and 4096 <= start <= (1 << 20) - size
            assert all(start + size <= s or s + n <= start for s, n in taken.items())
            taken[start] = size
    for start, size in taken.items():
        ranges.give_back(start, size)
    assert ranges.take((1 << 20) - 4096, 1) == 4096


def test_pools_share_chunks_and_give_large_requests_their_own():
    made: list[Memory] = []
    released: list[Memory] = []

    def make(nbytes: int) -> Memory:
        made.append(Memory(1 << 30 + len(made), nbytes, 0))
        return made[-1]

    pool = Pool(make, released.append, 1 << 16)
    small = [pool.take(100) for _ in range(4)]
    assert len(made) == 1 and len({piece.address for piece in small}) == 4
    assert all(piece.address % 256 == 0 for piece in small)
    large = pool.take(1 << 15)
    assert len(made) == 2 and large.nbytes == 1 << 15
    pool.give_back(large)
    assert released == [made[1]]
    pool.give_back(small[1])
    assert pool.take(10).address == small[1].address


def test_rings_wait_for_what_is_in_use():
    waits: list[int] = []
    wait = waits.append
    ring = Ring(100)
    assert [ring.take(40, position, wait) for position in (1, 2)] == [0, 40]
    assert not waits
    assert ring.take(30, 3, wait) == 0  # behind the end there were 20 bytes left
    assert waits == [1]
    assert ring.take(60, 4, wait) == 30
    assert waits == [1, 2]
    assert ring.take(100, 5, wait) == 0
    assert waits == [1, 2, 3, 4]
    with pytest.raises(ArgumentError, match="101 bytes"):
        ring.take(101, 6, wait)


def test_rings_count_their_places():
    waits: list[int] = []
    ring = Ring(64, places=3)
    assert [ring.take(8, position, waits.append) for position in range(1, 4)] == [0, 8, 16]
    ring.take(8, 4, waits.append)
    assert waits == [1]


def test_rings_never_hand_out_what_is_in_use():
    chance = random.Random(1)
    ring, live = Ring(1000), {}

    def wait(position: int) -> None:
        for p in [p for p in live if p <= position]:
            del live[p]

    for position in range(1, 3000):
        size = chance.randrange(1, 400)
        start = ring.take(size, position, wait)
        assert start + size <= 1000
        assert all(start + size <= s or s + n <= start for s, n in live.values())
        live[position] = (start, size)
