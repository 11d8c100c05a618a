"""Convolutions on units that several threads use together: places and taps are fused axes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from group_units import target, unit
from loop_kernels import Case, case, cast_matmul, tensor
from numpy.lib.stride_tricks import sliding_window_view

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.lower import lower
from dovetile.optimize.analysis import Analysis
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.exchange import Exchange
from dovetile.optimize.fuse import Fuse
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import OptError, Split, apply_opts
from dovetile.tensor.convolution import _correlate

UNITS = target("stores", unit(64))


def convolution(
    batch: int, size: int, channels: int, outputs: int, window: int, stride: int, padding: int
) -> Case:
    """Channels last in both operands and in the result."""
    data = tensor(batch, size, size, channels, dtype=dtypes.bfloat16)
    weights = tensor(outputs, window, window, channels, dtype=dtypes.bfloat16)
    around = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    images = data.permute((0, 3, 1, 2)).pad(around).cast(dtypes.float32)
    taps = weights.permute((0, 3, 1, 2)).cast(dtypes.float32)
    value = _correlate(images, taps, (stride, stride), (1, 1), 1).permute((0, 2, 3, 1))

    def reference(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        x, w = x.astype(np.float64), w.astype(np.float64)
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        windows = sliding_window_view(x, (window, window), (1, 2))[:, ::stride, ::stride]
        return np.einsum("byxcij,oijc->byxo", windows, w)

    name = f"{batch}x{size}x{size}x{channels} by {outputs}x{window}x{window}"
    return case(name, value, [data, weights], reference, UNITS)


@pytest.mark.parametrize(
    "sizes",
    [(1, 8, 64, 64, 3, 1, 1), (3, 6, 64, 64, 3, 1, 1), (2, 13, 64, 64, 3, 2, 1),
     (1, 9, 128, 64, 2, 1, 0), (5, 10, 128, 64, 1, 2, 0)],
)  # fmt: skip
def test_heuristics(sizes: tuple[int, ...]):
    """Places of several images share a unit's rows; the last block of places overlaps."""
    found = convolution(*sizes)
    kernel = apply_opts(found.kernel, heuristic(found.kernel, UNITS))
    assert prove(kernel) is None
    program = lower(kernel, UNITS)
    assert any(n.op is Op.MATMUL for n in program.uops)
    assert any(n.op is Op.STORE and n.arg == "async" for n in program.uops)
    found.compare(found.results(kernel, UNITS))


@pytest.mark.parametrize("sizes", [(2, 12, 3, 64, 7, 2, 3), (1, 9, 24, 64, 3, 1, 1)])
def test_operands_put_together_from_single_elements(sizes: tuple[int, ...]):
    """Of few channels, steps of the sum go on over taps; the last one has zeros at its end."""
    found = convolution(*sizes)
    kernel = apply_opts(found.kernel, heuristic(found.kernel, UNITS))
    assert prove(kernel) is None
    assert any(n.op is Op.MATMUL for n in lower(kernel, UNITS).uops)
    found.compare(found.results(kernel, UNITS))


def test_more_rows_than_there_are():
    """49 places in a block of 64 rows, of which the others do nothing."""
    found = convolution(1, 7, 64, 64, 3, 1, 1)
    kernel = apply_opts(found.kernel, heuristic(found.kernel, UNITS))
    assert prove(kernel) is None
    assert any(n.op is Op.MATMUL for n in lower(kernel, UNITS).uops)
    found.compare(found.results(kernel, UNITS))


def test_blocks_that_end_inside_are_preferred():
    """Lines of 56 places fill most of 64 rows; blocks of all places are stored in whole vectors."""
    found = convolution(1, 56, 64, 64, 3, 1, 1)
    opts = heuristic(found.kernel, replace(UNITS, threads=132))
    assert any(isinstance(o, Exchange) for o in opts)
    assert all(o.ragged != "masked" for o in opts if isinstance(o, Split))


def test_fuse():
    """Axes: 0 rows, 1 columns, 2 the sum; the result is as it was, read and written as before."""
    found = cast_matmul(6, 8, 10)
    found.run([Fuse((1, 0)), Split(0, 7)])
    fused = apply_opts(found.kernel, [Fuse((0, 1))])
    (store,) = Analysis(fused).stores
    assert [store.stride(r) for r in Analysis(fused).outputs] == [1]
    with pytest.raises(OptError, match="one kind"):
        apply_opts(found.kernel, [Fuse((0, 2))])
    with pytest.raises(OptError, match="several loops"):
        apply_opts(found.kernel, [Fuse((1,))])
