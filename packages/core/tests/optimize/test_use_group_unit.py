"""Contractions on units that several threads use together: by hand and by the heuristics."""

from __future__ import annotations

import numpy as np
import pytest
from group_units import target, unit
from loop_kernels import Case, case, cast_matmul, tensor

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.environment import context
from dovetile.ir.ops import AddressSpace, Op
from dovetile.lower import lower
from dovetile.optimize import unit_blocks
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import apply_opts
from dovetile.plugins import Capabilities
from dovetile.plugins.matrix_unit import GroupUnit


@pytest.mark.parametrize("copies", ["", "stores", "boxes"])
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_every_layout(layout: str, copies: str):
    case, capabilities = cast_matmul(64, 192, 64, layout), target(copies)
    opts = heuristic(case.kernel, capabilities)
    kernel = apply_opts(case.kernel, opts)
    assert prove(kernel) is None
    program = lower(kernel, capabilities)
    assert program.threads == 128
    assert any(n.op is Op.MATMUL for n in program.uops)
    assert any(n.op is Op.STORE and n.arg == "async" for n in program.uops) == (copies == "stores")
    assert any(n.op is Op.FETCH for n in program.uops) == (copies == "boxes")
    case.compare(case.results(kernel, capabilities))


@pytest.mark.parametrize("copies", ["stores", "boxes"])
@pytest.mark.parametrize("layout", ["nt", "tn"])
def test_rows_above_each_other_and_blocks_that_overlap(layout: str, copies: str):
    case, capabilities = cast_matmul(136, 128, 72, layout), target(copies)
    kernel = apply_opts(case.kernel, heuristic(case.kernel, capabilities))
    assert lower(kernel, capabilities).threads == 256
    case.compare(case.results(kernel, capabilities))


@pytest.mark.parametrize("depth", [64, 128])
def test_units_of_the_same_threads(depth: int, monkeypatch: pytest.MonkeyPatch):
    """What the first of them gave is stored where the panels of the second one were."""
    monkeypatch.setattr(unit_blocks, "_SHAPES", ((1, 2, 2),))
    case, capabilities = cast_matmul(256, depth, 128, "nt"), target("stores", unit(64))
    kernel = apply_opts(case.kernel, heuristic(case.kernel, capabilities))
    program = lower(kernel, capabilities)
    assert program.threads == 128
    assert program.parts == 4
    case.compare(case.results(kernel, capabilities))


def compared(case: Case, capabilities: Capabilities) -> bool:
    """Whether the units are used; the results are right in any case."""
    kernel = apply_opts(case.kernel, heuristic(case.kernel, capabilities))
    assert prove(kernel) is None
    case.compare(case.results(kernel, capabilities))
    return any(n.op is Op.MATMUL for n in lower(kernel, capabilities).uops)


@pytest.mark.parametrize("dtype", [dtypes.int8, dtypes.uint8], ids=lambda d: d.name)
def test_operands_of_a_byte(dtype: DType):
    """A row of a panel holds 128 of them; a unit that does not transpose takes them as they lie."""
    capabilities = target("stores", unit(64, dtype))
    assert compared(cast_matmul(64, 256, 64, "nt", (dtype, dtype)), capabilities)
    assert not compared(cast_matmul(64, 128, 64, "nn", (dtype, dtype)), capabilities)


def test_units_that_round_are_used_on_request():
    case = cast_matmul(64, 64, 64, "nt", (dtypes.float32, dtypes.float32))
    capabilities = target("stores", unit(64, dtypes.float32))
    assert not compared(case, capabilities)
    with context(MATMUL_PRECISION="high"):
        assert compared(case, capabilities)


def test_columns_that_are_no_power_of_two():
    assert compared(cast_matmul(64, 64, 384, "nn"), target("stores", unit(192)))


@pytest.mark.parametrize("layout", ["nt", "tn"])
def test_units_of_warps_side_by_side(layout: str):
    """Two by two, with 128 rows: more than a transposed panel has in a row of memory."""
    warps = GroupUnit(
        "warps", 128, 64, 16, "bfloat16", "bfloat16", "float32",
        row_digits=((2, "thread", 7), (4, "lane", 0), (2, "lane", 2), (8, "thread", 5)),
        column_digits=((2, "thread", 6), (4, "lane", 1), (4, "thread", 4), (2, "lane", 3)),
    )  # fmt: skip
    assert compared(cast_matmul(128, 64, 128, layout), target("stores", warps))


@pytest.mark.parametrize("copies", ["stores", "boxes"])
@pytest.mark.parametrize("columns", [64, 192])
def test_what_is_added_to_sums_is_read_as_it_is_stored(copies: str, columns: int):
    """Whole vectors of the scales of columns and of another matrix: sums are exchanged."""
    m, k, n, dtype = 200, 192, columns, dtypes.bfloat16
    a, b = tensor(m, k, dtype=dtype), tensor(n, k, dtype=dtype)
    scales, others = tensor(n, dtype=dtype), tensor(m, n, dtype=dtype)
    wide = [x.cast(dtypes.float32) for x in (a, b, scales, others)]
    product = wide[0].expand((n,)).permute((0, 2, 1)) * wide[1].expand((m,)).permute((2, 0, 1))
    total = product.reduce(Op.ADD, 1).cast(dtype).cast(dtypes.float32)
    value = total * wide[2].expand((m,)).permute((1, 0)) + wide[3]

    def reference(a: np.ndarray, b: np.ndarray, s: np.ndarray, x: np.ndarray) -> np.ndarray:
        a, b, s, x = (y.astype(np.float32) for y in (a, b, s, x))
        rounded = (a @ b.T).astype(dtypes.to_numpy(dtype)).astype(np.float32)
        return (rounded * s + x).astype(dtypes.to_numpy(dtype))

    capabilities = target(copies, unit(columns))
    found = case("", value.cast(dtype), [a, b, scales, others], reference, capabilities)
    kernel = apply_opts(found.kernel, heuristic(found.kernel, capabilities))
    assert prove(kernel) is None
    program = lower(kernel, capabilities)
    loads = [x for x in program.uops if x.op is Op.LOAD and x.src[0].src[0].op is Op.BUFFER]
    slots = [x.src[0].src[0].arg for x in loads]
    read = [x for x, slot in zip(loads, slots) if slot.space is AddressSpace.GLOBAL]
    assert {x.dtype.lanes for x in read} == {8}
    found.compare(found.results(kernel, capabilities))
