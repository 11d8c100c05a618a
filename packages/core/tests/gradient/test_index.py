"""The three forms of the gradient of INDEX."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import evaluate

from dovetile import dtypes
from dovetile.gradient.index import Affine, affine, index_gradient
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.tensor.nodes import arrange, iota

pytestmark = pytest.mark.usefixtures("reference")


def test_affine_forms() -> None:
    rows = arrange(iota(4), [0], (4, 3)) * 2
    columns = arrange(iota(3), [1], (4, 3)) + 5
    assert affine(rows + columns) == Affine(5, {0: 2, 1: 1})
    assert affine((rows + columns).permute((1, 0))) == Affine(5, {0: 1, 1: 2})
    assert affine(rows * columns) is None
    assert affine(UOp.buffer(3, dtypes.int64).cast(dtypes.index)) is None


@st.composite
def reads(draw: st.DrawFn) -> UOp:
    """An INDEX with affine positions: windows, single axes, fixed and repeated places."""
    sizes, indices, shape = [], [], []
    kinds = draw(st.lists(st.sampled_from(["window", "line", "fixed"]), min_size=1, max_size=2))
    axes: list[list[int]] = []
    for kind in kinds:
        count = {"window": 2, "line": 1, "fixed": 0}[kind]
        axes.append([len(shape) + i for i in range(count)])
        shape += [draw(st.integers(1, 4)) for _ in range(count)]
    if draw(st.booleans()) or not shape:
        shape.append(draw(st.integers(1, 3)))  # read again and again
    for own in axes:
        start = draw(st.integers(0, 2))
        steps = [draw(st.integers(1, 3)) for _ in own]
        index = UOp.const(start).expand(tuple(shape))
        for axis, step in zip(own, steps):
            index = arrange(iota(shape[axis]) * step, [axis], tuple(shape)) + index
        indices.append(index)
        last = start + sum((shape[axis] - 1) * step for axis, step in zip(own, steps))
        sizes.append(last + 1 + draw(st.integers(0, 2)))
    rest = tuple(draw(st.lists(st.integers(1, 2), max_size=1)))
    source = UOp.buffer(int(np.prod(sizes + list(rest))), dtypes.float64)
    return UOp(Op.INDEX, dtypes.float64, (source.reshape((*sizes, *rest)), *indices))


def expected(node: UOp, cotangent: np.ndarray) -> np.ndarray:
    result = np.zeros(node.src[0].shape)
    np.add.at(result, tuple(evaluate(index) for index in node.src[1:]), cotangent)
    return result


@given(reads())
@settings(max_examples=150)
def test_affine_reads_are_gathered(node: UOp) -> None:
    cotangent = np.random.default_rng(0).normal(size=node.shape)
    g = UOp.buffer(cotangent.size, dtypes.float64).reshape(node.shape)
    found = index_gradient(node, g)
    base = g if g.op is Op.BUFFER else g.src[0]
    value = evaluate(found, {base: cotangent.reshape(-1)})
    np.testing.assert_allclose(value, expected(node, cotangent), rtol=1e-12, atol=1e-12)
    assert not any(n.op is Op.STORE for n in toposort(found))


@pytest.mark.parametrize(("readers", "stores"), [(3, False), (50, True)])
def test_computed_reads(readers: int, stores: bool) -> None:
    source = UOp.buffer(5 * 2, dtypes.float64).reshape((5, 2))
    places = UOp.buffer(readers, dtypes.int64)
    node = UOp(Op.INDEX, dtypes.float64, (source, places.cast(dtypes.index)), "fault")
    cotangent = np.random.default_rng(0).normal(size=node.shape)
    g = UOp.buffer(cotangent.size, dtypes.float64)
    found = index_gradient(node, g.reshape(node.shape))
    chosen = np.arange(readers) * 3 % 5
    value = evaluate(found, {g: cotangent.reshape(-1), places: chosen})
    target = np.zeros((5, 2))
    np.add.at(target, chosen, cotangent)
    np.testing.assert_allclose(value, target, rtol=1e-12)
    assert any(n.op is Op.STORE for n in toposort(found)) == stores
