"""Where a masked value can be more than minus infinity."""

from __future__ import annotations

import math

import pytest

from dovetile import dtypes
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.rewrite import rewrite, substitute_ranges
from dovetile.ir.symbolic import simplify_index
from dovetile.ir.uop import UOp
from dovetile.optimize.visible import conditions, visible

KEY = UOp.range(100, AxisKind.REDUCE, 0)
ROW = UOp.range(8, AxisKind.LOOP, 1)
BLOCK = UOp.range(5, AxisKind.LOOP, 2)
QUERY = BLOCK * 8 + ROW
SCORE = UOp.buffer(100, dtypes.float32, slot=0).index(KEY).load()
NONE = UOp.const(-math.inf, dtypes.float32)

causal = KEY < QUERY + 1
window = causal & (QUERY < KEY + 10)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SCORE, (0, 100)),
        (causal.where(SCORE, NONE), (0, 24)),
        (causal.logical_not().where(NONE, SCORE), (0, 24)),
        ((causal.where(SCORE, NONE) * 0.5).cast(dtypes.float64), (0, 24)),
        (SCORE + causal.where(NONE.const_like(0), NONE), (0, 24)),
        (window.where(SCORE, NONE), (7, 24)),
        ((KEY < 30).where(causal.where(SCORE, NONE), NONE), (0, 24)),
        ((KEY * 3 < QUERY).where(SCORE, NONE), (0, 8)),
        ((QUERY < KEY).where(SCORE, NONE), (17, 100)),
        ((KEY < 7).where(NONE, (KEY < 9).where(NONE, SCORE)), (9, 100)),
        # Nothing follows from these.
        (causal.where(SCORE, SCORE.const_like(-1e9)), (0, 100)),
        ((causal | (KEY < 90)).where(SCORE, NONE), (0, 100)),
        (causal.where(SCORE, NONE) * -1.0, (0, 100)),
        ((SCORE < 1.0).where(SCORE, NONE), (0, 100)),
    ],
)
def test_bounds(value: UOp, expected: tuple[int, int]):
    """For rows 16 to 23, which are the third block of eight."""
    found = visible(value, KEY, frozenset({ROW}))
    there = [rewrite(substitute_ranges(b, {BLOCK: UOp.const(2)}), simplify_index) for b in found]
    assert [b.constant for b in there] == list(expected)


GREATEST = UOp.buffer(40, dtypes.float32, slot=1).index(QUERY).load()


def weight(mask: UOp) -> UOp:
    """Of a softmax over the keys."""
    return (mask.where(SCORE, NONE) - GREATEST).alu(Op.EXP2)


WEIGHT = weight(causal)
HELD = SCORE.replace(src=(*SCORE.src, SCORE.const_like(0), causal), arg="held")


@pytest.mark.parametrize(
    ("value", "end"),
    [
        (WEIGHT, 24),
        (WEIGHT * SCORE, 24),
        (SCORE * (WEIGHT / SCORE), 24),
        (causal.where(SCORE, SCORE.const_like(0)), 24),
        (HELD * SCORE, 24),
        (HELD + HELD * SCORE, 24),
        # Nothing follows from these.
        (HELD + SCORE, 100),
        (SCORE / HELD, 100),
        (causal.where(SCORE, NONE) * SCORE, 100),
    ],
)
def test_where_it_is_zero(value: UOp, end: int):
    found = visible(value, KEY, frozenset({ROW}), outside=0.0)
    there = [rewrite(substitute_ranges(b, {BLOCK: UOp.const(2)}), simplify_index) for b in found]
    assert [b.constant for b in there] == [0, end]


def test_a_row_that_is_masked_altogether_has_weights_that_are_no_numbers():
    """The first query sees no key, so that its maximum is minus infinity too."""
    assert conditions(weight(KEY < QUERY + 1), 0.0)
    assert not conditions(weight(KEY < QUERY), 0.0)
    assert conditions((KEY < QUERY).where(SCORE, NONE).alu(Op.EXP2), 0.0)


def test_conditions_that_are_negated_twice():
    seen = KEY < QUERY + 1
    twice = seen.logical_not().alu(Op.XOR, seen.const_like(True))
    for condition in (seen, twice):
        found = visible(condition.where(SCORE, NONE), KEY, frozenset({ROW}))
        assert found == visible(seen.where(SCORE, NONE), KEY, frozenset({ROW}))
    assert visible(seen.where(SCORE, NONE), KEY, frozenset({ROW}))[1] is not KEY.src[0]
