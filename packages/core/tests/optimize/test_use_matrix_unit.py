"""Contractions on matrix units: an interpreter knows what these compute, whoever has them."""

from __future__ import annotations

from dataclasses import replace

import loop_kernels as kernels
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_kernels import WIDE, Case, cast_matmul

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.errors import PluginError
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.lower import lower
from dovetile.optimize.analysis import Analysis
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.contraction import contraction_opts
from dovetile.optimize.opts import Bind, OptError, Order, Split, Stage, apply_opts
from dovetile.optimize.pad import Pad
from dovetile.optimize.use_matrix_unit import UseMatrixUnit
from dovetile.plugins.matrix_unit import MatrixUnit
from dovetile.plugins.specs import describe

TILE = MatrixUnit("tile", 4, 8, 8, "bfloat16", "bfloat16", "float32", 2, registers=8, cycles=4)
FLAT = MatrixUnit("flat", 8, 4, 4, "bfloat16", "bfloat16", "float32", 1, registers=6, cycles=4)
DOT = MatrixUnit("dot", 1, 8, 2, "bfloat16", "bfloat16", "float32", 2, cycles=0.25)
BYTES = MatrixUnit("bytes", 4, 4, 8, "uint8", "int8", "int32", 4, registers=8, cycles=2)
BYTE_DOT = MatrixUnit("byte dot", 1, 8, 4, "uint8", "int8", "int32", 4, cycles=0.25)
UNITS = [TILE, FLAT, DOT, BYTES, BYTE_DOT]


def typed(unit: MatrixUnit) -> tuple[DType, DType]:
    return tuple(getattr(dtypes, name) for name in (unit.a, unit.b))


def target(*units: MatrixUnit):
    return replace(WIDE, matrix_units=units, cache_bytes=(2048, 16384, 131072))


def instructions(case: Case, opts, capabilities=WIDE) -> int:
    program = lower(apply_opts(case.kernel, opts), capabilities)
    return sum(node.op is Op.MATMUL for node in program.uops)


# -- The Opt ---------------------------------------------------------------------------------------


def test_one_instruction_is_the_whole_product():
    case = cast_matmul(4, 8, 8)
    opts = [UseMatrixUnit(TILE, (0, 1, 2)), Stage(0, (3, 4, 6)), Stage(1, (4, 5, 6))]
    case.run(opts)
    program = lower(apply_opts(case.kernel, opts), WIDE)
    (product,) = [node for node in program.uops if node.op is Op.MATMUL]
    assert product.dtype is dtypes.float32.vec(32)
    fragments = product.src[:2]
    assert [f.op for f in fragments] == [Op.LOAD, Op.LOAD]
    assert [f.dtype for f in fragments] == [dtypes.bfloat16.vec(32), dtypes.bfloat16.vec(64)]


def test_fragments_without_panels_are_gathered():
    cast_matmul(4, 8, 8).run([UseMatrixUnit(TILE, (0, 1, 2))])
    cast_matmul(8, 4, 4, "tt").run([UseMatrixUnit(FLAT, (0, 1, 2))])


def test_several_fragments_share_what_they_load():
    case = cast_matmul(8, 24, 16)
    split = [Split(0, 4), Split(1, 8), Split(2, 8)]
    use = [UseMatrixUnit(TILE, (0, 1, 2), (3, 4)), Order((3, 0, 4, 1)), Bind(1, AxisKind.VECTOR)]
    panels = [Stage(0, (5, 10, 6, 7, 9)), Stage(1, (5, 11, 7, 8, 9))]
    case.run([*split, *use, *panels])
    program = lower(apply_opts(case.kernel, [*split, *use, *panels]), WIDE)
    products = [node for node in program.uops if node.op is Op.MATMUL]
    assert len(products) == 4
    assert len({p.src[0] for p in products}) == 2 and len({p.src[1] for p in products}) == 2
    registers = {
        b.arg.size for b in program.uops if b.op is Op.BUFFER and b.arg.space.name == "REG"
    }
    assert registers == {1}


def test_dot_products_stay_in_vectors():
    case = cast_matmul(6, 10, 8)
    opts = [
        Split(2, 2), UseMatrixUnit(DOT, (1, 2)), Bind(0, AxisKind.UNROLL),
        Stage(1, (3, 5, 6, 7)),
    ]  # fmt: skip
    case.run(opts)
    program = lower(apply_opts(case.kernel, opts), WIDE)
    local = [b for b in program.uops if b.op is Op.BUFFER and b.arg.space is AddressSpace.LOCAL]
    assert len(local) == 1  # the panel; the sums are nowhere in memory
    assert sum(node.op is Op.MATMUL for node in program.uops) == 6


def test_either_side_may_be_the_unit_s_first():
    types = (dtypes.int8, dtypes.uint8)
    case = cast_matmul(8, 8, 8, types=types)
    case.run([Split(0, 4), Split(1, 4), UseMatrixUnit(BYTES, (1, 0, 2), (3, 4))])


@pytest.mark.parametrize(
    "opts, words",
    [
        ([UseMatrixUnit(BYTES, (0, 1, 2))], "the kernel's operands are others"),
        ([UseMatrixUnit(TILE, (1, 0, 2))], "tile needs one of"),
        ([Bind(0, AxisKind.UNROLL), UseMatrixUnit(TILE, (0, 1, 2))], "UNROLL already"),
        ([UseMatrixUnit(TILE, (0, 2, 1))], "the kernel's operands are others"),
        ([UseMatrixUnit(TILE, (0, 1, 2), (9,))], "no axis 9"),
        ([Split(2, 2), UseMatrixUnit(DOT, (1, 2), (0,))], "hold nothing"),
    ],
)
def test_what_does_not_fit_is_named(opts, words):
    with pytest.raises(OptError, match=words):
        apply_opts(cast_matmul(4, 8, 8).kernel, opts)


def test_a_kernel_of_other_types_is_refused():
    with pytest.raises(OptError, match="the kernel's operands are others"):
        UseMatrixUnit(TILE, (0, 1, 2)).apply(kernels.matmul(4, 8, 8).kernel)
    with pytest.raises(OptError, match="no single sum of products"):
        UseMatrixUnit(TILE, (0, 1, 2)).apply(kernels.elementwise(4, 8).kernel)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rows": 3}, "power of two"),
        ({"group": 16}, "power of two"),
        ({"registers": 0}, "ordinary vectors"),
    ],
)
def test_a_table_that_cannot_be_is_refused(change, words):
    with pytest.raises(PluginError, match=words):
        replace(TILE, **change)


# -- Pad -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 7, 9, 23])
def test_padding_adds_nothing_and_reads_nothing(k: int):
    case = cast_matmul(5, k, 6)
    opts = [Pad(2, 8), Split(2, 8)] if k > 8 else [Pad(2, 8)]
    case.run(opts)  # the interpreter refuses a read outside of a buffer
    if k > 8:
        case.run([*opts, Stage(0, (3, 2)), Stage(1, (3, 2))])


def test_padding_needs_a_sum_of_products():
    with pytest.raises(OptError, match="sum of products"):
        Pad(1, 8).apply(kernels.column_maxima(5, 6).kernel)
    with pytest.raises(OptError, match="no multiple"):
        Pad(2, 4).apply(cast_matmul(4, 8, 8).kernel)
    with pytest.raises(OptError, match="reduced axis"):
        Pad(0, 8).apply(cast_matmul(4, 8, 8).kernel)


def test_zeros_are_outside_of_what_is_computed():
    """exp2 of a zero is one: the operand itself has to be zero beyond the end."""
    a, b = kernels.tensor(6, 5), kernels.tensor(5, 7)
    left = a.alu(Op.EXP2).expand((7,)).permute((0, 2, 1))
    right = b.alu(Op.EXP2).permute((1, 0)).expand((6,)).permute((2, 0, 1))
    value = (left * right).reduce(Op.ADD, 1)
    case = kernels.case("exp", value, [a, b], lambda a, b: np.exp2(a) @ np.exp2(b))
    case.run([Pad(2, 4)])


# -- The heuristic ---------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.integers(9, 50), st.integers(5, 60), st.integers(9, 50),
    st.sampled_from(["nn", "nt", "tn", "tt"]), st.sampled_from(UNITS),
)  # fmt: skip
def test_every_size_and_layout(m: int, k: int, n: int, layout: str, unit: MatrixUnit):
    case = cast_matmul(m, k, n, layout, typed(unit))
    opts = contraction_opts(Analysis(case.kernel), target(unit))
    if opts is None:
        assert m * k * n < 4096
        return
    # Small products, or rows that fill no unit, may be as fast without.
    whole = m // unit.rows * unit.rows * k * n
    assert whole < 16384 or any(isinstance(opt, UseMatrixUnit) for opt in opts)
    kernel = apply_opts(case.kernel, opts)
    assert prove(kernel) is None
    case.compare(case.results(kernel, target(unit)))


def test_the_cheaper_unit_is_taken_where_it_fits():
    both = target(DOT, replace(TILE, rows=32))

    def used(m: int, n: int) -> str | None:
        opts = contraction_opts(Analysis(cast_matmul(m, 64, n).kernel), both) or []
        return next((o.unit.name for o in opts if isinstance(o, UseMatrixUnit)), None)

    assert used(64, 64) == "tile"
    assert used(20, 256) == "dot"  # fewer rows than a tile has
    assert used(3, 256) is None  # packing for products that are so few does not pay
    slow = replace(DOT, cycles=100.0)
    opts = contraction_opts(Analysis(cast_matmul(64, 64, 64).kernel), target(slow))
    assert opts and not any(isinstance(o, UseMatrixUnit) for o in opts)


def test_tiles_fill_the_registers():
    for unit in UNITS:
        case = cast_matmul(64, 64, 64, types=typed(unit))
        capabilities = target(unit)
        opts = contraction_opts(Analysis(case.kernel), capabilities)
        program = lower(apply_opts(case.kernel, opts), capabilities)
        products = [node for node in program.uops if node.op is Op.MATMUL]
        a, b = ({p.src[i] for p in products} for i in (0, 1))
        most = unit.registers or capabilities.vector_registers
        held = len(products) + len(b) + (len(a) if unit.registers else 1)
        assert most // 2 < held <= most


def test_panels_are_filled_with_whole_vectors():
    """Rows whose elements alternate in the panel are loaded as rows: nothing is gathered."""
    case = cast_matmul(64, 64, 64)
    capabilities = target(TILE)
    opts = contraction_opts(Analysis(case.kernel), capabilities)
    program = lower(apply_opts(case.kernel, opts), capabilities)
    accesses = [n for n in program.uops if n.op in (Op.LOAD, Op.STORE)]
    assert all(n.src[0].src[1].dtype.lanes == 1 for n in accesses)
    stored = [n.src[1].dtype for n in accesses if n.op is Op.STORE and n.src[0].dtype.itemsize == 2]
    assert stored and all(dtype.lanes >= 8 for dtype in stored)


def test_conditions_only_where_the_sum_ends():
    """The last steps of a padded sum are filled by a loop of their own."""
    case = cast_matmul(64, 60, 64)
    opts = contraction_opts(Analysis(case.kernel), target(TILE))
    program = lower(apply_opts(case.kernel, opts), target(TILE))
    loads = [n for n in program.uops if n.op is Op.LOAD and n.src[0].dtype is dtypes.bfloat16]
    plain = [n for n in loads if len(n.src) == 1 and n.dtype.lanes in (8, 16)]
    assert plain and any(len(n.src) == 3 for n in loads)


def test_convolutions_and_batches():
    def batched(count: int, m: int, k: int, n: int) -> Case:
        a = kernels.tensor(count, m, k, dtype=dtypes.bfloat16)
        b = kernels.tensor(count, k, n, dtype=dtypes.bfloat16)
        left = a.cast(dtypes.float32).expand((n,)).permute((0, 1, 3, 2))
        right = b.cast(dtypes.float32).permute((0, 2, 1)).expand((m,)).permute((0, 3, 1, 2))
        value = (left * right).reduce(Op.ADD, 1)
        return kernels.case(
            "batched", value, [a, b], lambda a, b: a.astype(np.float32) @ b.astype(np.float32)
        )

    for unit in (TILE, FLAT, DOT):
        case = batched(3, 17, 24, 20)
        opts = contraction_opts(Analysis(case.kernel), target(unit))
        assert any(isinstance(opt, UseMatrixUnit) for opt in opts or [])
        kernel = apply_opts(case.kernel, opts)
        assert prove(kernel) is None
        case.compare(case.results(kernel, target(unit)))


def test_what_follows_the_sum_is_done_in_vectors():
    """A bias and a cast at the last store, in lanes, after tiles and after dot products."""
    a, b = (kernels.tensor(32, 32, dtype=dtypes.bfloat16) for _ in range(2))
    bias = kernels.tensor(32)
    left = a.cast(dtypes.float32).expand((32,)).permute((0, 2, 1))
    right = b.cast(dtypes.float32).permute((1, 0)).expand((32,)).permute((2, 0, 1))
    value = (left * right).reduce(Op.ADD, 1) + bias.expand((32,)).permute((1, 0))
    case = kernels.case(
        "linear", value, [a, b, bias],
        lambda a, b, c: a.astype(np.float32) @ b.astype(np.float32) + c,
    )  # fmt: skip
    for unit in (TILE, DOT):
        opts = contraction_opts(Analysis(case.kernel), target(unit))
        case.run(opts, target(unit))
        program = lower(apply_opts(case.kernel, opts), target(unit))
        stores = [n for n in program.uops if n.op is Op.STORE and n.src[0].src[0].op is Op.BUFFER]
        out = [n for n in stores if n.src[0].src[0].arg.space is AddressSpace.GLOBAL]
        assert out and all(n.src[1].dtype.lanes == 8 for n in out)


def test_a_target_s_units_can_be_read():
    text = describe(target(TILE, DOT))["matrix_units"]
    assert text == "tile (4x8x8), dot (1x8x2)"
