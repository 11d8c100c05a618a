"""Movement algebra: random chains of moves keep their meaning, and what should vanish does."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetile import dtypes
from dovetile.ir import Op, UOp, rewrite
from dovetile.ir.symbolic import simplify_constants, simplify_movement

RULES = simplify_movement + simplify_constants
X = UOp.buffer(24, dtypes.int32, "CPU", slot=0)


def _moved(node: UOp, x: np.ndarray) -> np.ndarray:
    op, arg = node.op, node.arg
    if op is Op.RESHAPE:
        return x.reshape(arg)
    if op is Op.PERMUTE:
        return x.transpose(arg)
    if op is Op.EXPAND:
        return np.broadcast_to(x.reshape(x.shape + (1,) * len(arg)), x.shape + arg)
    if op is Op.PAD:
        return np.pad(x, arg) if arg else x
    if op is Op.SHRINK:
        return x[tuple(slice(start, stop) for start, stop in arg)]
    assert op is Op.FLIP
    return np.flip(x, arg)


def tensor_value(node: UOp, leaves: Mapping[UOp, np.ndarray]) -> np.ndarray:
    """The value of a graph of movement ops, additions and products."""
    values: dict[UOp, np.ndarray] = {}
    for n in node.toposort():
        if n in leaves:
            values[n] = leaves[n]
        elif n.op is Op.CONST:
            values[n] = np.asarray(n.arg)
        elif n.op is Op.ADD:
            values[n] = values[n.src[0]] + values[n.src[1]]
        elif n.op is Op.MUL:
            values[n] = values[n.src[0]] * values[n.src[1]]
        else:
            values[n] = _moved(n, values[n.src[0]])
    return values[node]


def simplify(node: UOp) -> UOp:
    return rewrite(node, RULES)


def agree(before: UOp, after: UOp) -> None:
    leaves = {X: np.arange(1, 25, dtype=np.int32)}
    assert after.shape == before.shape
    np.testing.assert_array_equal(tensor_value(after, leaves), tensor_value(before, leaves))


def _factors(draw, size: int) -> tuple[int, ...]:
    shape = []
    while size > 1 and len(shape) < 3:
        shape.append(draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0])))
        size //= shape[-1]
    return (*shape, size)


@st.composite
def chains(draw):
    """X, or a number, moved up to eight times; shapes stay small but may become empty."""
    node = X if draw(st.booleans()) else UOp.const(draw(st.integers(0, 2)), dtypes.int32)
    for _ in range(draw(st.integers(1, 8))):
        shape = node.shape
        op = draw(st.sampled_from([Op.RESHAPE, Op.PERMUTE, Op.EXPAND, Op.PAD, Op.SHRINK, Op.FLIP]))
        if op is Op.RESHAPE and 0 not in shape:
            arg = _factors(draw, math.prod(shape))
        elif op is Op.PERMUTE:
            arg = tuple(draw(st.permutations(range(len(shape)))))
        elif op is Op.EXPAND and math.prod(shape) < 200:
            arg = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
        elif op is Op.PAD and math.prod(shape) < 200:
            arg = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in shape)
        elif op is Op.SHRINK:
            starts = [draw(st.integers(0, n)) for n in shape]
            arg = tuple((a, draw(st.integers(a, n))) for a, n in zip(starts, shape))
        elif op is Op.FLIP:
            arg = tuple(i for i in range(len(shape)) if draw(st.booleans()))
        else:
            continue
        node = UOp(op, node.dtype, (node,), arg)
        if len(node.shape) > 5:
            break
    return node


@settings(max_examples=500)
@given(chains())
def test_random_chains_keep_their_meaning(node: UOp):
    after = simplify(node)
    agree(node, after)
    assert simplify(after) is after


M = X.reshape((4, 6))
ZERO = UOp.const(0, dtypes.int32)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (M.reshape((2, 12)).reshape((4, 6)), M),
        (M.permute((1, 0)).permute((1, 0)), M),
        (M.pad(((1, 2), (0, 3))).shrink(((1, 5), (0, 6))), M),
        (M.pad(((1, 0), (0, 0))).pad(((1, 0), (0, 1))), M.pad(((2, 0), (0, 1)))),
        (M.shrink(((1, 3), (0, 6))).shrink(((1, 2), (2, 4))), M.shrink(((2, 3), (2, 4)))),
        (M.flip((0,)).flip((0, 1)), M.flip((1,))),
        (M.expand((2,)).expand((3,)), M.expand((2, 3))),
        (M.expand((1, 1)), X.reshape((4, 6, 1, 1))),
        (M.reshape((4, 1, 6)).permute((1, 0, 2)), X.reshape((1, 4, 6))),
        (M.expand((5,)).reshape((24, 5)), X.expand((5,))),
        (M.expand((5, 7)).permute((1, 0, 3, 2)), M.permute((1, 0)).expand((7, 5))),
        (M.expand((5,)).flip((1, 2)), M.flip((1,)).expand((5,))),
        (M.expand((5,)).shrink(((0, 4), (1, 2), (2, 4))), M.shrink(((0, 4), (1, 2))).expand((2,))),
        (M.pad(((0, 0), (2, 0))).shrink(((0, 4), (0, 2))), ZERO.expand((4, 2))),
        (M + ZERO.expand((24,)).reshape((4, 6)), M),
        (M * UOp.const(1, dtypes.int32).expand((6, 4)).permute((1, 0)), M),
    ],
)
def test_what_vanishes(before: UOp, after: UOp):
    agree(before, after)
    assert simplify(before) is simplify(after)
    assert simplify(after) is after


def test_padding_a_number_that_is_not_zero_stays():
    one = UOp.const(1.0, dtypes.float32).expand((3,))
    assert simplify(one.pad(((1, 0),))).op is Op.PAD
    # -0.0 padded with 0.0 is not one number everywhere.
    negative = UOp.const(-0.0, dtypes.float32).expand((3,))
    assert simplify(negative.pad(((1, 0),))).op is Op.PAD
