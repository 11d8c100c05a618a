from __future__ import annotations

import gc
import random

import pytest

from dovetile.errors import ArgumentError, OutOfMemoryError
from dovetile.runtime.allocator import Allocation, CachingAllocator, size_class


class System:
    """So many bytes of memory, which hands out each address once."""

    def __init__(self, nbytes: int) -> None:
        self.free = nbytes
        self.live: dict[int, int] = {}
        self.next = 1
        self.events: list[str] = []

    def allocate(self, nbytes: int) -> Allocation:
        if nbytes > self.free:
            raise OutOfMemoryError(f"[allocate] {nbytes} bytes; {self.free} are free")
        self.free -= nbytes
        self.live[self.next] = nbytes
        self.next += 1
        self.events.append("allocate")
        return Allocation(self.next - 1, nbytes)

    def release(self, allocation: Allocation) -> None:
        self.free += self.live.pop(allocation.address)
        self.events.append("release")

    def synchronize(self) -> None:
        self.events.append("synchronize")

    def allocator(self, keep_bytes: int) -> CachingAllocator:
        return CachingAllocator(self.allocate, self.release, self.synchronize, keep_bytes)


def test_size_classes_waste_at_most_an_eighth_and_are_few() -> None:
    sizes = [size_class(n) for n in range(1, 100_000)]
    assert all(n <= size for n, size in enumerate(sizes, 1))
    assert all(size <= max(n + 255, n * 9 / 8 + 1) for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) < 80
    assert size_class(0) > 0
    assert all(size_class(size) == size for size in set(sizes))


def test_freed_memory_is_used_again_newest_first() -> None:
    allocator = System(1 << 20).allocator(1 << 20)
    one, two = allocator.allocate(1000), allocator.allocate(1000)
    allocator.free(one)
    allocator.free(two)
    assert allocator.allocate(900) is two
    assert allocator.allocate(1024) is one
    assert allocator.allocate(1024) not in (one, two)


def test_kept_memory_is_bounded_and_the_oldest_goes_first() -> None:
    system = System(1 << 30)
    allocator = system.allocator(keep_bytes=10 * 4096)
    live = [allocator.allocate(4096) for _ in range(20)]
    for allocation in live:
        allocator.free(allocation)
    again = allocator.allocate(4096)
    assert again is live[-1]
    assert allocator.kept_bytes <= 10 * 4096
    assert live[0].address not in system.live
    assert system.events.index("synchronize") < system.events.index("release")


def test_kept_memory_is_released_under_pressure() -> None:
    system = System(100_000)
    allocator = system.allocator(keep_bytes=1 << 30)
    allocator.free(allocator.allocate(60_000))
    big = allocator.allocate(90_000)
    assert "synchronize" in system.events
    with pytest.raises(OutOfMemoryError, match="bytes are in use by tensors"):
        allocator.allocate(50_000)
    allocator.free(big)
    assert allocator.allocate(50_000).nbytes >= 50_000, "usable after the error"


def test_release_kept_returns_everything() -> None:
    system = System(1 << 20)
    allocator = system.allocator(1 << 20)
    kept = [allocator.allocate(n) for n in (10, 5000, 70_000)]
    used = allocator.allocate(3000)
    for allocation in kept:
        allocator.free(allocation)
    released = allocator.release_kept()
    assert released == sum(a.nbytes for a in kept) and allocator.kept_bytes == 0
    assert list(system.live) == [used.address]


def test_negative_sizes() -> None:
    with pytest.raises(ArgumentError, match="cannot be negative"):
        System(1000).allocator(0).allocate(-1)


def test_no_two_owners_ever_share_memory() -> None:
    generator = random.Random(5)
    system = System(4 << 20)
    allocator = system.allocator(1 << 20)
    live: list[Allocation] = []
    for _ in range(3000):
        if live and generator.random() < 0.5:
            allocator.free(live.pop(generator.randrange(len(live))))
        else:
            try:
                live.append(allocator.allocate(generator.randrange(1, 60_000)))
            except OutOfMemoryError:
                allocator.free(live.pop(0))
        assert len({id(a) for a in live}) == len(live)
        assert {a.address for a in live} <= set(system.live)
    for allocation in live:
        allocator.free(allocation)
    allocator.release_kept()
    assert not system.live and allocator.used_bytes == 0


def test_finalizers_may_free_while_memory_is_allocated() -> None:
    system = System(1 << 30)
    allocator = system.allocator(1 << 20)

    class Owner:
        def __init__(self) -> None:
            self.me = self  # only the garbage collector frees this
            self.allocation = allocator.allocate(512)

        def __del__(self) -> None:
            allocator.free(self.allocation)

    original = system.allocate

    def allocate(nbytes: int) -> Allocation:
        gc.collect()  # as may happen at any moment
        return original(nbytes)

    allocator._allocate = allocate
    for _ in range(50):
        Owner()
    gc.collect()
    allocator.release_kept()
    assert not system.live


def test_what_was_just_freed_is_used_again_and_counted_once() -> None:
    system = System(1 << 20)
    allocator = system.allocator(keep_bytes=1 << 20)
    first = allocator.allocate(1000)
    for _ in range(10):
        allocator.free(first)
        assert allocator.allocate(1000) is first
    other = allocator.allocate(5000)
    assert allocator.used_bytes == first.nbytes + other.nbytes
    allocator.free(first)
    allocator.free(other)
    assert allocator.allocate(1000) is first, "not the newest, which has another size"
    allocator.free(first)
    allocator.release_kept()
    assert allocator.used_bytes == allocator.kept_bytes == 0 and not system.live
