"""Matrix units: both compilers write the instructions of each architecture and type."""

from __future__ import annotations

import pytest
from gpu_kernels import HOPPER, compilers, disassembled, instructions_of, target

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.environment import context
from dovetile.ir import Op, UOp
from dovetile.lower import lower
from dovetile.lower.linear import LinearKernel
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import apply_opts
from dovetile_nv.capabilities import ARCHITECTURES
from dovetile_nv.matrix_units import units

SIZE = 1024


def product(architecture: str, dtype: DType, transposed: bool, depth: int = SIZE) -> LinearKernel:
    """A @ B by the heuristics; transposed: both are contiguous along rows and columns of the
    output, else along the sum."""
    row, column, step = (UOp.range(n, id=id) for id, n in enumerate((SIZE, SIZE, depth)))
    total = dtypes.float32 if dtype.is_float else dtypes.int32
    places = [row * depth + step, column * depth + step]
    if transposed:
        places = [step * SIZE + row, step * SIZE + column]
    a, b = (
        UOp.buffer(SIZE * depth, dtype, slot=slot).index(place).load().cast(total)
        for slot, place in enumerate(places, 1)
    )
    value = UOp(Op.REDUCE, total, (a * b, step), Op.ADD)
    out = UOp.buffer(SIZE * SIZE, total, slot=0).index(row * SIZE + column)
    kernel = UOp.sink(out.store(value).end(row, column))
    with context(MATMUL_PRECISION="high"):
        kernel = apply_opts(kernel, heuristic(kernel, target(architecture)))
    return lower(kernel, target(architecture))


@disassembled
@compilers
@pytest.mark.parametrize(
    ("architecture", "dtype", "transposed", "word"),
    [
        ("sm_80", dtypes.bfloat16, True, "HMMA.16816.F32.BF16"),
        ("sm_86", dtypes.int8, False, "IMMA.16832.S8.S8"),
        ("sm_89", dtypes.float8_e4m3fn, False, "QMMA.16832.F32.E4M3.E4M3"),
        (HOPPER, dtypes.bfloat16, True, "HGMMA.64x"),
        (HOPPER, dtypes.float32, False, "HGMMA.64x"),
        (HOPPER, dtypes.uint8, False, "IGMMA.64x"),
        (HOPPER, dtypes.float8_e5m2, False, "QGMMA.64x"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_instruction_is_in_the_code(
    compiler: str, architecture: str, dtype: DType, transposed: bool, word: str
) -> None:
    words = instructions_of(compiler, product(architecture, dtype, transposed), architecture)
    assert [w for w in words if w.startswith(word)]
    if architecture != HOPPER:  # operands come by whole matrices, transposed on their way
        assert len([w for w in words if ".MT88" in w]) == (
            len([w for w in words if w.startswith("LDSM")]) if transposed else 0
        )


@disassembled
@compilers
def test_integers_in_one_step(compiler: str) -> None:
    """No loop: the sums are awaited where they are used, in registers of integers."""
    words = instructions_of(compiler, product(HOPPER, dtypes.int8, False, depth=128))
    assert [w for w in words if w.startswith("IGMMA")]


def attention(width: int) -> LinearKernel:
    """softmax(q @ k.T) @ v of 1024 queries and keys by the heuristics."""
    row, column, key, step = (UOp.range(n, id=i) for i, n in enumerate((SIZE, width, SIZE, width)))
    places = [row * width + step, key * width + step, key * width + column]
    q, k, v = (
        UOp.buffer(SIZE * width, dtypes.bfloat16, slot=slot).index(place).load()
        for slot, place in enumerate(places, 1)
    )
    q, k, v = (x.cast(dtypes.float32) for x in (q, k, v))
    score = UOp(Op.REDUCE, dtypes.float32, (q * k, step), Op.ADD)
    top = UOp(Op.REDUCE, dtypes.float32, (score, key), Op.MAX)
    weight = (score + top * -1.0).alu(Op.EXP2)
    total = UOp(Op.REDUCE, dtypes.float32, (weight, key), Op.ADD)
    value = UOp(Op.REDUCE, dtypes.float32, (weight * v, key), Op.ADD)
    value = (value * (total.const_like(1.0) / total)).cast(dtypes.bfloat16)
    out = UOp.buffer(SIZE * width, dtypes.bfloat16, slot=0).index(row * width + column)
    kernel = UOp.sink(out.store(value).end(row, column))
    return lower(apply_opts(kernel, heuristic(kernel, target(HOPPER))), target(HOPPER))


@disassembled
@pytest.mark.parametrize("width", [64, 128])
def test_attention_is_one_loop_in_registers(width: int) -> None:
    words = instructions_of("CUDA", attention(width))
    scores, values = width // 16, 128 // 16
    assert len([w for w in words if w.startswith("HGMMA.64x")]) == scores + values
    # Scores, weights and the result are awaited: where the assembler cannot follow the registers
    # of products under way, it says nothing and awaits every single one.
    assert len([w for w in words if w.startswith("WARPGROUP.DEPBAR")]) <= 3


def test_three_workgroups_of_narrow_attention_fit_a_processor() -> None:
    used = attention(64).local_bytes
    assert target(HOPPER).local_bytes // used == 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_units_by_architecture(architecture: str) -> None:
    found = target(architecture).matrix_units
    number = ARCHITECTURES[architecture].number
    assert found == units(number)
    assert bool(found) == (number >= 80)
    assert any("float8" in unit.a for unit in found) == (number >= 89)
    assert all(unit.threads == 128 for unit in found)


def test_without_a_request_float32_keeps_its_digits() -> None:
    assert all(unit.rounds == (unit.a == "float32") for unit in units(90))
