"""Every operation on every type compiles for every architecture, as scalars and as vectors."""

from __future__ import annotations

import pytest
from gpu_kernels import (
    HOPPER,
    architectures,
    compilers,
    computing_small,
    cubin_of,
    disassembled,
    elementwise,
    group,
    instructions_of,
    linear,
    thread,
)

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir import Op, UOp


def results(a: UOp, b: UOp, c: UOp, flag: UOp) -> list[UOp]:
    """All that there is to compute of three values of a type, and a bool."""
    kind = a.dtype.kind
    values = [a + b, a * b, a.maximum_with(b), a.minimum_with(b), a < b, a.ne(b), flag.where(a, c)]
    if kind in "uif":
        values += [a - b, a.bitcast(bits_of(a.dtype))]
    if kind in "bui":
        values += [a & b, a | b, a ^ b]
    if kind in "ui":
        values += [a // b, a % b, a // 7, a % 7, a << b, a >> b]
    if kind == "f":
        values += [a / b, a * b + c]
        values += [a.alu(op) for op in (Op.SQRT, Op.TRUNC, Op.EXP2, Op.LOG2, Op.SIN)]
    return values + [a.cast(target) for target in dtypes.TENSOR_DTYPES]


def bits_of(dtype: DType) -> DType:
    return getattr(dtypes, f"uint{dtype.bits}")


def kernel_of(dtype: DType, lanes: int, architecture: str = HOPPER, capabilities=None):
    """One kernel with all `results`, each in a buffer of its own."""
    count = 64 * 128 * lanes
    position = (group(64) * 128 + thread(128)) * lanes
    operands = [
        UOp.buffer(count, t, slot=slot).index(position).load(dtype=t.vec(lanes))
        for slot, t in enumerate([dtype, dtype, dtype, dtypes.bool_])
    ]
    stores = [
        UOp.buffer(count, value.dtype.scalar, slot=slot).index(position).store(value)
        for slot, value in enumerate(results(*operands), 4)
    ]
    return linear(UOp.group(*stores), architecture, capabilities)


@compilers
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("dtype", dtypes.TENSOR_DTYPES, ids=lambda d: d.name)
def test_every_operation(compiler: str, dtype: DType, lanes: int) -> None:
    cubin_of(compiler, kernel_of(dtype, lanes))


@compilers
@pytest.mark.parametrize("architecture", ["sm_80", HOPPER])
@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=lambda d: d.name)
def test_every_operation_in_small_floats(compiler: str, architecture: str, dtype: DType) -> None:
    kernel = kernel_of(dtype, 2, architecture, computing_small(architecture))
    cubin_of(compiler, kernel, architecture)


@compilers
@architectures
@pytest.mark.parametrize(
    "dtype",
    [dtypes.float16, dtypes.bfloat16, dtypes.float32, dtypes.int8],
    ids=lambda d: d.name,
)
def test_every_architecture(compiler: str, architecture: str, dtype: DType) -> None:
    cubin_of(compiler, kernel_of(dtype, 2, architecture), architecture)


# What one operation is in the machine: what must be among the instructions, and how many there may
# be in all. A call, or a sequence that repairs what cannot happen, would be far more.
NATIVE = {
    "fused": (lambda x: x * x + x, dtypes.float32, "FFMA", 20),
    "fused in half": (lambda x: x * x + x, dtypes.float16, "FFMA", 20),
    "fused in bfloat": (lambda x: x * x + x, dtypes.bfloat16, "FFMA", 20),
    "fused in double": (lambda x: x * x + x, dtypes.float64, "DFMA", 20),
    "maximum": (lambda x: x.maximum_with(1.0), dtypes.float32, "FMNMX.NAN", 20),
    "truncation": (lambda x: x.alu(Op.TRUNC), dtypes.float32, "FRND.TRUNC", 20),
    "exp2": (lambda x: x.alu(Op.EXP2), dtypes.float32, "MUFU.EX2", 24),
    "root": (lambda x: x.alu(Op.SQRT), dtypes.float32, "MUFU.RSQ", 80),
}


@disassembled
@compilers
@pytest.mark.parametrize("name", NATIVE)
def test_native_operations_are_few_instructions(compiler: str, name: str) -> None:
    function, dtype, wanted, most = NATIVE[name]
    words = instructions_of(compiler, elementwise(function, [dtype]))
    assert [word for word in words if word.startswith(wanted)], words
    assert len(words) <= most, words


@disassembled
@compilers
@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=lambda d: d.name)
def test_small_floats_may_be_computed_in_pairs(compiler: str, dtype: DType) -> None:
    kernel = elementwise(lambda x, y: x * y + x, [dtype, dtype], 8, computing_small())
    words = instructions_of(compiler, kernel)
    assert len([word for word in words if word.startswith("HFMA2")]) == 4, words


@disassembled
@compilers
def test_an_exponential_keeps_its_precision(compiler: str) -> None:
    """exp(x) is 2**(x * log2(e)), whose product must not be rounded: no single instruction."""
    log2_e = 1.4426950408889634
    words = instructions_of(
        compiler, elementwise(lambda x: (x * log2_e).alu(Op.EXP2), [dtypes.float32])
    )
    assert "MUFU.EX2" not in words


@disassembled
@compilers
def test_division_of_indices_is_a_multiplication(compiler: str) -> None:
    """Of 32 bits, as they fit: by a constant that is no power of two, twice."""
    flat = group(1024) * 256 + thread(256)
    x, out = (UOp.buffer(1024 * 256, dtypes.float32, slot=slot) for slot in (1, 0))
    store = out.index(flat).store(x.index(flat // 48 + flat % 48 * 5461).load())
    words = instructions_of(compiler, linear(store))
    assert len(words) <= 32, words
    assert [word for word in words if word.startswith(("IMAD.HI", "IMAD.WIDE"))]
