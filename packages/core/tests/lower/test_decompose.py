"""Integer division and shifts over all small values; casts of small floats over all their bits."""

from __future__ import annotations

import numpy as np
import pytest
from linear_kernels import CAPABILITIES, COMPILERS, LlvmCompiler, call, elementwise_kernel

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir import Op, UOp, rewrite, toposort
from dovetile.lower.decompose import decompositions
from dovetile.plugins.specs import WIDE_DTYPES, Capabilities

llvm = COMPILERS[0]


def ops_of(node: UOp, capabilities: Capabilities = CAPABILITIES) -> list[Op]:
    return [n.op for n in toposort(rewrite(node, decompositions(capabilities)))]


def value(dtype: DType, slot: int = 0) -> UOp:
    return UOp.buffer(16, dtype, slot=slot).index(0).load()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("operation", ["divide", "modulo", "left", "right"])
@pytest.mark.parametrize("dtype", [dtypes.int8, dtypes.uint8], ids=lambda d: d.name)
@pytest.mark.parametrize("compiler", [llvm])
def test_every_pair_of_bytes(compiler, dtype: DType, operation: str) -> None:
    numbers = np.arange(256, dtype=np.uint8).view(dtypes.to_numpy(dtype))
    a, b = (np.ascontiguousarray(x.ravel()) for x in np.meshgrid(numbers, numbers))
    build, reference = {
        "divide": (lambda x, y: x // y, np.floor_divide),
        "modulo": (lambda x, y: x % y, np.remainder),
        "left": (lambda x, y: x << y, np.left_shift),
        "right": (lambda x, y: x >> y, np.right_shift),
    }[operation]
    rules = decompositions(CAPABILITIES)
    kernel = elementwise_kernel(build, [dtype, dtype], dtype, a.size, 16, rules)
    result = np.empty_like(a)
    call(compiler, kernel, result, a, b)
    np.testing.assert_array_equal(result, reference(a, b))


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("compiler", [llvm])
def test_division_of_indices(compiler, divisor: int) -> None:
    """`index` values below zero, divided by constants and by positive variables."""
    a = np.arange(-200, 200, dtype=np.int64)

    def build(x: UOp) -> UOp:
        x = x.cast(dtypes.index)
        positive = UOp.variable("d", 1, 100)
        return (x // divisor * 1000 + x % positive).cast(dtypes.int64)

    kernel = elementwise_kernel(
        build, [dtypes.int64], dtypes.int64, a.size, 1, decompositions(CAPABILITIES)
    )
    result = np.empty_like(a)
    call(compiler, kernel, result, a, scalars=(divisor,))
    np.testing.assert_array_equal(result, a // divisor * 1000 + a % divisor)


def test_division_that_needs_no_help_is_left_alone() -> None:
    i = UOp.range(100, id=1)
    for node in (i // 7, i % 7, i // UOp.variable("d", 1, 9), value(dtypes.uint32) // 3):
        assert rewrite(node, decompositions(CAPABILITIES)) is node
    assert Op.WHERE not in ops_of((i * -1) // 7)
    assert rewrite(value(dtypes.int32) << 3, decompositions(CAPABILITIES)).op is Op.SHL


def test_fusions() -> None:
    x, y, z = (value(dtypes.float32, slot) for slot in range(3))
    assert ops_of(x * y + z)[-1] is Op.MULACC
    assert ops_of(z + y * x)[-1] is Op.MULACC
    assert ops_of(x - y)[-1] is Op.SUB
    without = Capabilities(architecture="test")
    assert ops_of(x * y + z, without)[-1] is Op.ADD
    i = value(dtypes.int32)
    assert ops_of(i * i + i)[-1] is Op.ADD


@pytest.mark.parametrize(
    "name, native", [("float16", False), ("float16", True), ("bfloat16", False)]
)
@pytest.mark.parametrize("compiler", [llvm])
def test_small_floats_convert_exactly(compiler, name: str, native: bool) -> None:
    """All 65536 values up, and float32 around every tie, limit and denormal down; by bits and by
    the target's own conversion (of float16: that of bfloat16 may flush denormals)."""
    capabilities = Capabilities(
        architecture="test", native_ops=frozenset({f"CAST_{name}"} if native else ())
    )
    small = getattr(dtypes, name)
    host = dtypes.to_numpy(small)
    compiler, rules = LlvmCompiler(capabilities), decompositions(capabilities)
    every = np.arange(65536, dtype=np.uint16).view(host)
    wide = np.empty(65536, np.float32)
    call(
        compiler,
        elementwise_kernel(
            lambda x: x.cast(dtypes.float32), [small], dtypes.float32, 65536, 16, rules
        ),
        wide,
        every,
    )
    np.testing.assert_array_equal(wide, every.astype(np.float32))
    bits = wide.view(np.uint32).astype(np.int64)
    step = 1 << (13 if name == "float16" else 16)
    near = [bits + d for d in (-1, 0, 1, step // 2 - 1, step // 2, step // 2 + 1)]
    source = np.concatenate(near).astype(np.uint32).view(np.float32)
    result = np.empty(source.size, host)
    down = elementwise_kernel(
        lambda x: x.cast(small), [dtypes.float32], small, source.size, 16, rules
    )
    call(compiler, down, result, source)
    with np.errstate(all="ignore"):
        right = source.astype(host)
    np.testing.assert_array_equal(result.astype(np.float32), right.astype(np.float32))
    numbers = ~np.isnan(right.astype(np.float32))
    np.testing.assert_array_equal(result.view(np.uint16)[numbers], right.view(np.uint16)[numbers])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_small_float_arithmetic_is_in_float32(name: str) -> None:
    small = getattr(dtypes, name)
    x = value(small)
    for node in (x + x, x * 2.0, x / x, x.maximum_with(x), x < x, x.alu(Op.EXP2)):
        for n in toposort(rewrite(node, decompositions(CAPABILITIES))):
            if n.op in (Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MAX, Op.LT, Op.MULACC):
                assert all(s.dtype is not small for s in n.src), n
    native = Capabilities(
        architecture="test", arithmetic_dtypes=WIDE_DTYPES | {"float16", "bfloat16"}
    )
    assert ops_of(x + x, native)[-1] is Op.ADD
    # Functions are computed wider even then.
    assert ops_of(x.alu(Op.EXP2), native)[-1] is Op.CAST


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("compiler", [llvm])
def test_uint64_from_large_and_negative_floats(compiler) -> None:
    x = np.array([0, 1.5, 2.0**63, 2.0**63 + 2.0**40, 1.8e19, -1, -2.5, 9e18] * 2, np.float32)
    result = np.empty(16, np.uint64)
    kernel = elementwise_kernel(
        lambda v: v.cast(dtypes.uint64), [dtypes.float32], dtypes.uint64, 16, 8,
        decompositions(CAPABILITIES),
    )  # fmt: skip
    call(compiler, kernel, result, x)
    right = [int(v) % 2**64 for v in x.tolist()]
    assert result.tolist() == right
