"""Tensor-level graphs for tests: made from arrays, scheduled, run on the CPU, and random ones."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
from reference import evaluate_all

from dovetile import dtypes, schedule
from dovetile.dtypes import DType
from dovetile.ir.held import realized
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.plugins import Capabilities
from dovetile.schedule import make
from dovetile.schedule.dependencies import Kernel
from dovetile.schedule.realization import normalize
from dovetile.tensor.placement import fetch

DEVICE = "CPU"
CAPABILITIES = Capabilities(
    architecture="test",
    threads=4,
    parallel_axes=("THREAD",),
    vector_bytes=32,
    vector_registers=16,
    local_bytes=1 << 20,
)


def buffer(shape: tuple[int, ...], dtype: DType = dtypes.float32) -> UOp:
    """A view of a BUFFER that has no memory, for what only schedules."""
    return UOp.buffer(math.prod(shape), dtype, DEVICE).reshape(shape)


def place(array: np.ndarray) -> UOp:
    """A view of a BUFFER on the device with a copy of the array."""
    from dovetile.tensor import placement

    return placement.place(np.ascontiguousarray(array).reshape(-1), DEVICE).reshape(array.shape)


def plan_kernels(*roots: UOp, capabilities: Capabilities = CAPABILITIES) -> list[Kernel]:
    """The kernels of a graph in order."""
    sink = normalize(roots)
    devices: Any = {DEVICE: SimpleNamespace(capabilities=capabilities)}
    kernels, _, _ = make.schedule(sink, devices, DEVICE)
    return kernels


def run(*roots: UOp) -> list[np.ndarray]:
    """The values of all roots, computed together on the device."""
    schedule.realize(roots)
    return [np.array(fetch(realized(root))) for root in roots]


def expect(*roots: UOp, exact: bool = True) -> None:
    """Compares what the device computes with the reference evaluator."""
    buffers = [n for n in toposort(roots) if n.op is Op.BUFFER]
    bindings = {b: np.array(fetch(b)) for b in buffers}
    expected = evaluate_all(list(roots), bindings)
    for node, found, wanted in zip(roots, run(*roots), expected):
        assert found.shape == wanted.shape and found.dtype == wanted.dtype, node
        if exact:
            np.testing.assert_array_equal(found, wanted)
        else:
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-4)


# -- random graphs ---------------------------------------------------------------------------------

_LARGEST = 1500


def _factors(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    """A shape of `size` elements."""
    shape = []
    while size > 1 and len(shape) < 3:
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        shape.append(draw(st.sampled_from(divisors)))
        size //= shape[-1]
    return (*shape, size) if size != 1 or draw(st.booleans()) else tuple(shape)


def _fit(draw: st.DrawFn, node: UOp, shape: tuple[int, ...]) -> UOp:
    """Something of `shape` made from `node`."""
    if node.shape == shape:
        return node
    wanted = math.prod(shape)
    if node.size == wanted:
        return node.reshape(shape)
    flat = node.reshape((node.size,))
    if flat.size > wanted:
        start = draw(st.integers(0, flat.size - wanted))
        return flat.shrink(((start, start + wanted),)).reshape(shape)
    if flat.size and wanted % flat.size == 0 and draw(st.booleans()):
        wide = flat.expand((wanted // flat.size,))
        return (wide.permute((1, 0)) if draw(st.booleans()) else wide).reshape(shape)
    before = draw(st.integers(0, wanted - flat.size))
    return flat.pad(((before, wanted - flat.size - before),)).reshape(shape)


def _movement(draw: st.DrawFn, x: UOp) -> UOp:
    rank = len(x.shape)
    kind = draw(st.sampled_from(["reshape", "permute", "expand", "pad", "shrink", "flip"]))
    if kind == "reshape":
        if x.size == 0:
            return x
        return x.reshape(_factors(draw, x.size))
    if kind == "expand":
        n = draw(st.integers(1, 4))
        return x.expand((n,)) if x.size * n <= _LARGEST and rank < 5 else x
    if not rank:
        return x
    if kind == "permute":
        return x.permute(tuple(draw(st.permutations(range(rank)))))
    if kind == "flip":
        return x.flip(tuple(a for a in range(rank) if draw(st.booleans())))
    if kind == "pad":
        amounts = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in x.shape)
        padded = math.prod(n + a + b for n, (a, b) in zip(x.shape, amounts))
        return x.pad(amounts) if padded <= _LARGEST else x
    limits = []
    for n in x.shape:
        start = draw(st.integers(0, n))
        limits.append((start, draw(st.integers(start, n))) if draw(st.booleans()) else (0, n))
    shrunk = x.shrink(tuple(limits))
    return shrunk if shrunk.size or draw(st.integers(0, 9)) == 0 else x


def _indexed(draw: st.DrawFn, x: UOp) -> UOp:
    count = draw(st.integers(1, min(2, len(x.shape))))
    n = draw(st.integers(1, 6))
    positions = []
    for size in x.shape[:count]:
        step, start = draw(st.integers(1, 5)), draw(st.integers(0, 7))
        iota = UOp(Op.IOTA, dtypes.index, (), n)
        positions.append((iota * step + start) % size)
    gathered = UOp(Op.INDEX, x.dtype, (x, *positions))
    return gathered if gathered.size <= _LARGEST else x


def _step(draw: st.DrawFn, pool: list[UOp]) -> UOp:
    x = draw(st.sampled_from(pool))
    kind = draw(st.sampled_from(["move", "move", "unary", "binary", "binary", "reduce", "where",
                                 "index", "stage"]))  # fmt: skip
    if kind == "move":
        return _movement(draw, x)
    if kind == "unary":
        return draw(st.sampled_from([lambda: -x, lambda: x * 3, lambda: x + 1,
                                     lambda: x.maximum_with(2)]))()  # fmt: skip
    if kind in ("binary", "where"):
        y = _fit(draw, draw(st.sampled_from(pool)), x.shape)
        if kind == "where":
            return (x < y).where(_fit(draw, draw(st.sampled_from(pool)), x.shape), x)
        return x.alu(draw(st.sampled_from([Op.ADD, Op.MUL, Op.MAX, Op.MIN])), y)
    if kind == "reduce" and x.shape:
        op = draw(st.sampled_from([Op.ADD, Op.ADD, Op.MAX, Op.MIN, Op.MUL]))
        order = tuple(draw(st.permutations(range(len(x.shape)))))
        return x.permute(order).reduce(op, draw(st.integers(1, len(x.shape))))
    if kind == "index" and x.shape and x.size:
        return _indexed(draw, x)
    return x.stage() if kind == "stage" else x


@st.composite
def graphs(draw: st.DrawFn, dtype: DType = dtypes.int32) -> list[UOp]:
    """One to three roots over one or two BUFFERs of small whole numbers."""
    pool = []
    for i in range(draw(st.integers(1, 2))):
        shape = tuple(draw(st.lists(st.integers(1, 7), max_size=3)))
        values = np.random.default_rng(i).integers(-3, 4, shape)
        pool.append(place(values.astype(dtypes.to_numpy(dtype))))
    for _ in range(draw(st.integers(1, 12))):
        pool.append(_step(draw, pool))
    count = draw(st.integers(1, 3))
    return list(dict.fromkeys(pool[-count:]))
