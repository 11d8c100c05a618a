"""Temporaries that share an arena."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from dovetile.schedule.memory import Life, plan

_lives = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 20)).map(
        lambda t: Life(t[0], min(t[1:]), max(t[1:]))
    ),
    max_size=25,
)


@given(_lives)
def test_values_alive_at_one_time_do_not_overlap(lives: list[Life]) -> None:
    offsets, total = plan(lives)
    placed = list(zip(lives, offsets))
    for i, (a, start) in enumerate(placed):
        assert start % 64 == 0 and 0 <= start and start + a.nbytes <= total
        for b, other in placed[:i]:
            together = a.first <= b.last and b.first <= a.last
            if together and a.nbytes and b.nbytes:
                assert start + a.nbytes <= other or other + b.nbytes <= start


@given(_lives)
def test_no_more_than_everything_apart(lives: list[Life]) -> None:
    _, total = plan(lives)
    rounded = [-(-life.nbytes // 64) * 64 for life in lives]
    assert max(rounded, default=0) <= total <= sum(rounded)


def test_values_in_turn_share_one_place() -> None:
    offsets, total = plan([Life(1000, i, i) for i in range(10)])
    assert offsets == [0] * 10 and total == 1024


def test_a_chain_needs_two_places() -> None:
    assert plan([Life(640, i, i + 1) for i in range(10)])[1] == 1280
