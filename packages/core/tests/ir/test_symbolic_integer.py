"""Integer algebra: exhaustive over small ranges, proved by Z3, and on random expressions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetile import dtypes
from dovetile.ir import Op, UOp, rewrite
from dovetile.ir.symbolic import (
    floor_divide,
    floor_remainder,
    from_linear,
    linear_bounds,
    linear_form,
    simplify_gate,
    symbolic,
)

SIZES = (4, 3, 6)
LOOPS = tuple(UOp.range(n, id=100 + i) for i, n in enumerate(SIZES))
SIGNED = UOp.variable("signed", -3, 4)
LEAVES = (*LOOPS, SIGNED)


# -- evaluation, independent of the rules ----------------------------------------------------------


def _divided(operation):
    def apply(a, b):
        with np.errstate(divide="ignore"):
            return np.where(b == 0, 0, operation(a, b))

    return apply


_OPERATIONS = {
    Op.ADD: np.add,
    Op.MUL: np.multiply,
    Op.FLOORDIV: _divided(np.floor_divide),
    Op.FLOORMOD: _divided(np.remainder),
    Op.MAX: np.maximum,
    Op.MIN: np.minimum,
    Op.LT: np.less,
    Op.NE: np.not_equal,
    Op.AND: np.bitwise_and,
    Op.OR: np.bitwise_or,
    Op.XOR: np.bitwise_xor,
    Op.WHERE: np.where,
}


def numpy_type(dtype: dtypes.DType) -> np.dtype:
    return np.dtype(np.int64) if dtype is dtypes.index else dtypes.to_numpy(dtype)


def index_values(node: UOp, leaves: Mapping[UOp, np.ndarray]) -> np.ndarray:
    """The values of an expression of indices and conditions at many points: `leaves` holds the
    values of the loops and variables at each."""
    values: dict[UOp, np.ndarray] = {}
    for n in node.toposort():
        if n in leaves:
            values[n] = leaves[n]
        elif n.op is Op.CONST:
            values[n] = np.asarray(n.arg, numpy_type(n.dtype))
        elif n.op is Op.CAST:
            values[n] = values[n.src[0]].astype(numpy_type(n.dtype))
        elif n.op is not Op.RANGE:  # an open loop not among the leaves cannot be used: KeyError
            values[n] = _OPERATIONS[n.op](*(values[s] for s in n.src))
    return values[node]


def every_point(*values) -> dict[UOp, np.ndarray]:
    """All combinations of values of LEAVES."""
    grids = np.meshgrid(*values, indexing="ij")
    return {leaf: grid.ravel() for leaf, grid in zip(LEAVES, grids)}


POINTS = every_point(*(np.arange(n) for n in SIZES), np.arange(-3, 5))


def simplify(node: UOp) -> UOp:
    return rewrite(node, symbolic)


def agree(before: UOp, after: UOp) -> None:
    expected = index_values(before, POINTS)
    np.testing.assert_array_equal(index_values(after, POINTS), expected)
    assert np.all(after.minimum <= expected) and np.all(expected <= after.maximum)


# -- linear forms ----------------------------------------------------------------------------------


def test_linear_form_gathers_terms():
    a, b, c = LOOPS
    form = linear_form((a * 3 + b) * 4 + 5 - a * 2 + c // 2)
    assert form == ({a: 10, b: 4, c // 2: 1}, 5)
    assert linear_form(UOp.const(7)) == ({}, 7)
    assert linear_form(a - a) == ({}, 0)


def test_linear_form_of_products_of_loops_is_opaque():
    a, b, _ = LOOPS
    assert linear_form(a * b + 1) == ({a * b: 1}, 1)


def test_linear_form_does_not_recurse_and_bounds_its_terms():
    x = LOOPS[0]
    total = x
    for i in range(50_000):
        total = total + (x if i % 2 else x * -1)
    assert linear_form(total) == ({x: 1}, 0)
    many = sum((UOp.variable(f"v{i}", 0, 1) for i in range(1000)), UOp.const(0))
    assert len(linear_form(many)[0]) <= 65


def test_from_linear_is_canonical_and_ordered():
    a, b, _ = LOOPS
    assert from_linear({b: 2, a: 1}, 3, a) is from_linear({a: 1, b: 2}, 3, a)
    assert simplify(3 + b * 2 + a) is simplify(a + (b + 1) * 2 + 1)
    assert linear_bounds({a: 2, b: -1}, 1) == (-1, 7)


# -- every form of division, exhaustively ----------------------------------------------------------

COEFFICIENTS = (-8, -3, -1, 1, 2, 3, 4, 6, 7, 12)


@pytest.mark.parametrize("divisor", [1, 2, 3, 4, 6, 8, 12])
def test_division_of_two_terms(divisor: int):
    a, b, _ = LOOPS
    for x, y, k in itertools.product(COEFFICIENTS, COEFFICIENTS, (-5, 0, 1, 7)):
        numerator = a * x + b * y + k
        agree(numerator // divisor, floor_divide(simplify(numerator), divisor))
        agree(numerator % divisor, floor_remainder(simplify(numerator), divisor))


@pytest.mark.parametrize("op", [Op.FLOORDIV, Op.FLOORMOD])
@pytest.mark.parametrize("inner", [Op.FLOORDIV, Op.FLOORMOD])
def test_nested_divisions(op: Op, inner: Op):
    for m, c, k, d in itertools.product((1, 5, 7), (2, 3, 4, 6), (-3, 0, 2), (2, 3, 4, -2)):
        before = ((SIGNED * m).alu(inner, c) + k).alu(op, d)
        agree(before, simplify(before))


@pytest.mark.parametrize("op", [Op.LT, Op.NE])
def test_comparisons(op: Op):
    a, b, _ = LOOPS
    for x, y, k in itertools.product(COEFFICIENTS, COEFFICIENTS, range(-9, 10, 2)):
        before = (a * x).alu(op, b * y + k)
        agree(before, simplify(before))
        before = (a * x + b // 2).alu(op, b * y + k)
        agree(before, simplify(before))


def test_comparison_of_quotients():
    for c, k in itertools.product((2, 3, 5), range(-4, 5)):
        agree(SIGNED // c < k, simplify(SIGNED // c < k))
        agree((SIGNED // c).ne(k), simplify((SIGNED // c).ne(k)))


# -- what must be gone -----------------------------------------------------------------------------


def flatten(indices, shape):
    total = UOp.const(0)
    for i, n in zip(indices, shape):
        total = total * n + i
    return total


def unflatten(position, shape):
    found = []
    for n in reversed(shape):
        found.append(position % n)
        position = position // n
    return found[::-1]


A, B, C = UOp.range(4, id=1), UOp.range(6, id=2), UOp.range(8, id=3)


@pytest.mark.parametrize(
    "shapes",
    [
        [(192,)],
        [(24, 8)],
        [(4, 48), (192,)],
        [(4, 3, 2, 8), (12, 16), (192,)],
        [(8, 24), (2, 4, 24), (192,)],
        [(32, 6), (4, 8, 6)],
        [(2, 2, 3, 2, 2, 4), (16, 12), (6, 32)],
    ],
)
def test_reshape_round_trip_vanishes(shapes):
    indices, shape = [A, B, C], (4, 6, 8)
    for target in [*shapes, (4, 6, 8)]:
        indices, shape = unflatten(flatten(indices, shape), target), target
    assert [simplify(i) for i in indices] == [A, B, C]


def test_flips_go_through_reshapes():
    reversed_position = 191 - flatten([A, B, C], (4, 6, 8))
    found = [simplify(i) for i in unflatten(reversed_position, (4, 6, 8))]
    assert found == [simplify(3 - A), simplify(5 - B), simplify(7 - C)]
    twice = unflatten(191 - flatten(found, (4, 6, 8)), (4, 6, 8))
    assert [simplify(i) for i in twice] == [A, B, C]


def test_convolution_windows_become_affine():
    # Windows made by repeating, cutting and reshaping a row of 9: position (o, k) reads o + k.
    outputs, taps = UOp.range(7, id=4), UOp.range(3, id=5)
    position = (taps * 10 + outputs) % 9  # rows of 9, read with a stride of 10
    assert simplify(position) is simplify(taps + outputs)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((C // 2) * 2 + C % 2, C),
        ((C // 4) * 4 + ((C // 2) % 2) * 2 + C % 2, C),
        ((C % 4) // 2, (C // 2) % 2),
        ((C // 2) // 2, C // 4),
        ((C % 4) % 2, C % 2),
        ((A * 8 + C) // 4, A * 2 + C // 4),
        ((A * 8 + C) % 4, C % 4),
        ((A * 4 + B // 2) // 2, A * 2 + B // 4),
        (B.maximum_with(-1), B),
        (B.minimum_with(3).maximum_with(7), UOp.const(7)),
        (C // 4 < 1, C < 4),
        (A * 8 + C < 16, A < 2),
        ((A * 8 + C).ne(40), UOp.const(True, dtypes.bool)),
        ((A < 2) & (A < 3), A < 2),
        ((A < 2) & (A < 2).logical_not(), UOp.const(False, dtypes.bool)),
        ((A < 2) & (B < 3) & (A + B < 7), (A < 2) & (B < 3)),
        ((A < 2) | (A < 3), A < 3),
        (A.cast(dtypes.int32) * 3 + 1, (A * 3 + 1).cast(dtypes.int32)),
        (A.cast(dtypes.int32).cast(dtypes.index) * 2, A * 2),
        (A.cast(dtypes.int32) < B.cast(dtypes.int32), A < B),
    ],
)
def test_canonical_forms(before: UOp, after: UOp):
    assert simplify(before) is simplify(after)
    assert len(simplify(before).toposort()) <= len(after.toposort())


def test_overflowing_arithmetic_is_not_lifted():
    wide = UOp.range(1000, id=6)
    node = wide.cast(dtypes.uint8) + 1
    assert simplify(node) is node
    byte = (UOp.range(200, id=7).cast(dtypes.uint8) * 2).cast(dtypes.index)
    assert simplify(byte).op is Op.CAST


def test_symbolic_sizes():
    n = UOp.variable("n", 2, 16)
    row, column = UOp.range(5, id=8), UOp.range(n, id=9)
    flat = row * n + column
    assert simplify(flat // n) is row
    assert simplify(flat % n) is column
    assert simplify((row + 1) * n - n) is simplify(row * n)
    assert simplify((flat + 1) // n).op is Op.FLOORDIV


# -- gates -----------------------------------------------------------------------------------------


def test_gate_narrows_a_loop():
    wide = UOp.range(10, id=10)
    gate = (wide >= 2) & (wide < 6)
    assert simplify_gate(simplify((wide + 2) // 4), simplify(gate)) is UOp.const(1)
    assert simplify_gate(simplify((wide - 2) % 4), simplify(gate)) is simplify(wide - 2)


def test_gate_narrows_a_sum():
    row, tap = UOp.range(8, id=11), UOp.range(3, id=12)
    position = row + tap - 1
    gate = simplify((position >= 0) & (position < 8))
    assert simplify_gate(simplify(position % 8), gate) is simplify(position)
    assert simplify_gate(simplify((position + 8) // 8), gate) is UOp.const(1)


@st.composite
def expressions(draw, depth: int = 4, conditions: bool = False):
    """Random expressions over LEAVES; bool-valued ones if `conditions`."""

    def value(depth: int) -> UOp:
        if depth == 0 or draw(st.integers(0, 7)) == 0:
            leaf = draw(st.sampled_from([*LEAVES, None]))
            return UOp.const(draw(st.integers(-9, 9))) if leaf is None else leaf
        kind = draw(st.sampled_from("+++**///%%%Mmxw"))
        x = value(depth - 1)
        if kind == "*":
            return x * draw(st.sampled_from([2, 3, 4, 6, 8, -1, -2, 12]))
        if kind in "/%":
            c = draw(st.sampled_from([2, 3, 4, 6, 8, 12, 5, -4]))
            return x // c if kind == "/" else x % c
        y = value(0 if kind == "x" else depth - 1)
        if kind == "w":
            return condition(depth - 1).where(x, y)
        return {
            "+": x.__add__, "M": x.maximum_with, "m": x.minimum_with, "x": x.__mul__
        }[kind](y)  # fmt: skip

    def condition(depth: int) -> UOp:
        kind = draw(st.sampled_from("<<<=!&|" if depth > 0 else "<="))
        if kind in "<=":
            x, y = value(depth - 1 if depth else 0), value(0)
            return x < y if kind == "<" else x.ne(y)
        x = condition(depth - 1)
        if kind == "!":
            return x.logical_not()
        return x & condition(depth - 1) if kind == "&" else x | condition(depth - 1)

    return condition(depth) if conditions else value(depth)


@settings(max_examples=300)
@given(expressions())
def test_random_values_keep_their_meaning(node: UOp):
    after = simplify(node)
    agree(node, after)
    assert simplify(after) is after


@settings(max_examples=200)
@given(expressions(conditions=True))
def test_random_conditions_keep_their_meaning(node: UOp):
    after = simplify(node)
    agree(node, after)
    assert simplify(after) is after


@settings(max_examples=200)
@given(expressions(3), expressions(2, conditions=True))
def test_gated_values_agree_where_the_gate_holds(node: UOp, gate: UOp):
    node, gate = simplify(node), simplify(gate)
    after = simplify_gate(node, gate)
    holds = np.broadcast_to(index_values(gate, POINTS), POINTS[SIGNED].shape)
    before, after = (np.broadcast_to(index_values(n, POINTS), holds.shape) for n in (node, after))
    np.testing.assert_array_equal(before[holds], after[holds])


def test_a_gate_that_fixes_a_value_leaves_other_constants_alone():
    r, other = UOp.range(9, id=100), UOp.range(5, id=101)
    after = simplify_gate(simplify(r * 2 + other), simplify((r < 6) & (r >= 5)))
    assert after is simplify(other + 10)


# -- the rules of division for all integers, by Z3 -------------------------------------------------


def test_division_rules_hold_for_all_integers():
    z3 = pytest.importorskip("z3")
    x, y = z3.Ints("x y")

    def always(claim) -> None:
        solver = z3.Solver()
        solver.set("timeout", 20_000)
        solver.add(z3.Not(claim))
        assert solver.check() == z3.unsat, claim

    # For a positive constant divisor z3's integer division rounds down and its remainder is >= 0.
    for c, d in [(2, 2), (3, 2), (4, 3), (6, 4)]:
        always((c * x + y) / c == x + y / c)
        always((c * x + y) % c == y % c)
        always((x / c) / d == x / (c * d))
        always((x / c) * c + x % c == x)
        always(((x / c) % d) * c + x % c == x % (c * d))
        always((x % (c * d)) / c == (x / c) % d)
        always((x % (c * d)) % c == x % c)
        always(z3.Implies(z3.And(0 <= y, y < c), (c * x + y) / (c * d) == x / d))
        always(z3.Implies(z3.And(0 <= y, y < c), (c * x + y) % (c * d) == c * (x % d) + y))
        always(x / c == -((c - 1 - x) / c))
        always(x % c == c - 1 - (c - 1 - x) % c)
        always((x / c < y) == (x < y * c))
        always(z3.Implies(z3.And(0 <= y, y < c), (c * x + y < c * d) == (x < d)))
