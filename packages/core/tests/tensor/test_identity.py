"""The weak set of Tensors by identity."""

from __future__ import annotations

import gc
import threading

import numpy as np

from dovetile.tensor.identity import IdentitySet


class Member:
    """Equal to everything, and not hashable: only its identity counts."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def test_members_count_by_identity_in_the_order_they_came() -> None:
    members = [Member() for _ in range(5)]
    held: IdentitySet[Member] = IdentitySet()
    for member in (*members, members[1]):
        held.add(member)
    assert len(held) == 5 and held.added == 6
    assert all(found is member for found, member in zip(held, members))
    held.discard(members[2])
    held.discard(Member())
    assert [id(member) for member in held] == [id(members[i]) for i in (0, 1, 3, 4)]


def test_members_go_with_their_last_reference() -> None:
    held: IdentitySet[Member] = IdentitySet()
    for _ in range(1000):
        held.add(Member())
        assert len(held) == 0
    kept = Member()
    held.add(kept)
    cycle = Member()
    cycle.itself = cycle  # type: ignore[attr-defined]
    held.add(cycle)
    del cycle
    gc.collect()
    assert list(map(id, held)) == [id(kept)]


def test_a_member_that_was_discarded_does_not_take_its_successor_along() -> None:
    held: IdentitySet[np.ndarray] = IdentitySet()
    for _ in range(1000):
        first = np.zeros(1)
        held.add(first)
        held.discard(first)
        del first
        second = np.ones(1)  # often at the same address
        held.add(second)
        assert len(held) == 1
        del second
        assert len(held) == 0


def test_the_table_does_not_grow_with_members_that_have_gone() -> None:
    held: IdentitySet[Member] = IdentitySet()
    kept = [Member() for _ in range(100)]
    for member in kept:
        held.add(member)
    for _ in range(100):
        passing = [Member() for _ in range(100)]
        for member in passing:
            held.add(member)
        del passing, member
        assert len(held) == 100 and held
    assert len(held._references) <= 3 * 300
    del kept
    assert not held


def test_threads_add_members_while_others_go() -> None:
    held: IdentitySet[Member] = IdentitySet()
    kept: list[Member] = []

    def work() -> None:
        for number in range(3000):
            member = Member()
            held.add(member)
            if number % 10 == 0:
                kept.append(member)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {id(member) for member in held} == {id(member) for member in kept}
