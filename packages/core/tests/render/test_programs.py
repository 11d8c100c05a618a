"""Loops, registers, local memory, gates, gathers and masks, through every compiler."""

from __future__ import annotations

import time

import numpy as np
import pytest
from linear_kernels import CAPABILITIES, COMPILERS, LlvmCompiler, broadcast, call, linear

from dovetile import dtypes
from dovetile.errors import UnsupportedError
from dovetile.ir import AddressSpace, AxisKind, Op, UOp, toposort
from dovetile.lower.linear import LinearKernel, known_divisor
from dovetile.render import CStyleRenderer, HostLlvmIrRenderer, LlvmIrRenderer

compilers = pytest.mark.parametrize("compiler", COMPILERS)


def lanes(*values: UOp) -> UOp:
    return UOp(Op.VECTOR, values[0].dtype.vec(len(values)), values)


def extract(vector: UOp, *picked: int) -> UOp:
    return UOp(Op.EXTRACT, vector.dtype.scalar.vec(len(picked)), (vector,), picked)


def count(size: int, dtype=dtypes.index) -> UOp:
    """The vector 0, 1, ..., size - 1."""
    return lanes(*(UOp.const(i, dtype) for i in range(size)))


@compilers
@pytest.mark.parametrize("width", [1, 8])
def test_matrix_product_with_register_tile(compiler, width: int) -> None:
    """C[m, n] = sum_k A[m, k] B[k, n], two rows at a time in a REG buffer that is initialised by
    STOREs, updated in the loop and read after it."""
    rows, inner, columns = 6, 5, 16
    a, b, c = (
        UOp.buffer(size, dtypes.float32, slot=slot)
        for slot, size in enumerate((rows * inner, inner * columns, rows * columns))
    )
    vector = dtypes.float32.vec(width)
    registers = UOp.buffer(2, vector, slot=0, space=AddressSpace.REG)
    m, n = UOp.range(rows // 2, id=1), UOp.range(columns // width, id=2)
    k = UOp.range(inner, AxisKind.REDUCE, id=3)
    zero = UOp.const(0.0, vector)
    start = UOp.group(*(registers.after(n).index(i).store(zero) for i in range(2)))
    # What follows in the loop depends on the loop and on the state before it.
    state = registers.after(start, k)
    right = b.index(k * columns + n * width).load(dtype=vector)
    updates = []
    for i in range(2):
        left = broadcast(a.index((m * 2 + i) * inner + k).load(), width)
        address = state.index(i)
        updates.append(address.store(address.load(dtype=vector) + left * right))
    done = UOp.group(*updates).end(k)
    final = registers.after(done)
    stores = [
        c.index((m * 2 + i) * columns + n * width).store(final.index(i).load(dtype=vector))
        for i in range(2)
    ]
    kernel = linear(UOp.group(*stores).end(n).end(m))
    random = np.random.default_rng(1)
    left = random.standard_normal((rows, inner)).astype(np.float32)
    right = random.standard_normal((inner, columns)).astype(np.float32)
    out = np.zeros((rows, columns), np.float32)
    source = call(compiler, kernel, left, right, out)
    np.testing.assert_allclose(out, left @ right, rtol=1e-5, atol=1e-6)
    if isinstance(compiler, LlvmCompiler):
        assert source.count("alloca") == 2  # one for each element: nothing is indexed by a loop


@compilers
def test_register_array_indexed_by_a_loop(compiler) -> None:
    """A running sum is kept in an array of registers and written out backwards."""
    x, out = (UOp.buffer(8, dtypes.int32, slot=slot) for slot in (0, 1))
    array = UOp.buffer(8, dtypes.int32, slot=0, space=AddressSpace.REG)
    i, j = UOp.range(8, id=1), UOp.range(8, id=2)
    fill = array.index(i).store(x.index(i).load() * 3).end(i)
    copy = out.index(j * -1 + 7).store(array.after(fill).index(j).load()).end(j)
    values = np.arange(8, dtype=np.int32)
    result = np.zeros(8, np.int32)
    call(compiler, linear(copy), values, result)
    np.testing.assert_array_equal(result, values[::-1] * 3)


@compilers
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bool_])
def test_streaming_stores_work_at_any_address(compiler, dtype) -> None:
    """Whole vectors at their natural alignment go past the caches, others are stored plainly."""
    count, width = 64, 16
    x, out = (UOp.buffer(count, dtype, slot=slot) for slot in (0, 1))
    i = UOp.range(count // width, id=0)
    value = x.index(i * width).load(dtype=dtype.vec(width))
    kernel = linear(out.index(i * width).store(value, arg="streaming").end(i))
    values = np.arange(count).astype(dtypes.to_numpy(dtype))
    memory = np.zeros(count * dtype.itemsize + 128, np.uint8)
    start = -memory.ctypes.data % 64
    for offset in (0, dtype.itemsize):
        memory[:] = 0
        result = memory[start + offset :][: values.nbytes].view(values.dtype)
        source = call(compiler, kernel, values, result)
        np.testing.assert_array_equal(result, values)
        assert (
            not memory[: start + offset].any()
            and not memory[start + offset :][values.nbytes :].any()
        )
    assert "nontemporal" in source and "fence" in source


@compilers
def test_local_memory_holds_two_buffers(compiler) -> None:
    x, out = UOp.buffer(16, dtypes.float64, slot=0), UOp.buffer(16, dtypes.float64, slot=1)
    first = UOp.buffer(16, dtypes.float64, slot=0, space=AddressSpace.LOCAL)
    second = UOp.buffer(16, dtypes.float32, slot=128, space=AddressSpace.LOCAL)
    i, j = UOp.range(4, id=1), UOp.range(16, id=2)
    value = x.index(i * 4).load(dtype=dtypes.float64.vec(4))
    fill = UOp.group(
        first.index(i * 4).store(value * 2.0), second.index(i * 4).store(value.cast(dtypes.float32))
    ).end(i)
    total = first.after(fill).index(j).load() + second.after(fill).index(j).load().cast(
        dtypes.float64
    )
    kernel = linear(out.index(j).store(total).end(j))
    assert kernel.local_bytes == 128 + 64
    values, result = np.arange(16.0), np.zeros(16)
    call(compiler, kernel, values, result)
    np.testing.assert_array_equal(result, values * 3)


@compilers
def test_parts_and_variables(compiler) -> None:
    """Every part writes its share; two variables come in order of their names."""
    parts, size = 4, UOp.variable("size", 0, 10)
    offset = UOp.variable("first", -100, 100)
    part = UOp(Op.SPECIAL, dtypes.index, (UOp.const(parts),), "part")
    out = UOp.buffer(parts * 10, dtypes.int64, slot=0)
    i = UOp.range(size, id=1)
    value = (part * 1000 + i + offset).cast(dtypes.int64)
    kernel = linear(out.index(part * 10 + i).store(value).end(i))
    assert kernel.parts == parts
    for length in (0, 7):  # a loop of no iterations writes nothing
        result = np.full((parts, 10), -1)
        call(compiler, kernel, result, scalars=(-5, length))
        right = np.full((parts, 10), -1)
        right[:, :length] = np.arange(parts)[:, None] * 1000 + np.arange(length) - 5
        np.testing.assert_array_equal(result, right)


@compilers
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bool_, dtypes.int16, dtypes.bfloat16])
def test_scalar_gates_guard_memory(compiler, dtype) -> None:
    """A shifted copy reads only inside the input and writes only inside the output."""
    host = dtypes.to_numpy(dtype)
    x, out = UOp.buffer(8, dtype, slot=0), UOp.buffer(10, dtype, slot=1)
    i = UOp.range(12, id=1)
    inside = (i >= 2) & (i < 10)
    value = x.index(i + (-2)).load(UOp.const(1, dtype), inside)
    kernel = linear(out.index(i).store(value, i < 10).end(i))
    values = np.array([0, 1, 0, 0, 1, 1, 1, 0]).astype(host)
    memory = np.full(12, 0, host)
    call(compiler, kernel, values, memory)
    np.testing.assert_array_equal(memory[:2], np.ones(2, host))
    np.testing.assert_array_equal(memory[2:10], values)
    np.testing.assert_array_equal(memory[10:], np.zeros(2, host))


@compilers
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bool_, dtypes.int8, dtypes.bfloat16])
def test_masks_and_gated_vectors(compiler, dtype) -> None:
    """Masked lanes read the alternative and write nothing; a scalar gate holds for all lanes."""
    host = dtypes.to_numpy(dtype)
    x, out = UOp.buffer(20, dtype, slot=0), UOp.buffer(32, dtype, slot=1)
    vector = dtype.vec(8)
    i = UOp.range(4, id=1)
    position = broadcast(i * 8, 8) + count(8)
    value = x.index(i * 8).load(UOp.const(1, vector), position < 20, dtype=vector)
    kept = (position % 3).ne(1)
    first = out.index(i * 8).store(value, kept)
    again = x.index(i * 8).load(UOp.const(0, vector), i < 2, dtype=vector)
    second = UOp.buffer(32, dtype, slot=2).index(i * 8).store(again, i.ne(1))
    kernel = linear(UOp.group(first, second).end(i))
    values = (np.arange(20) % 2).astype(host)
    one, two = np.zeros(32, host), np.ones(32, host)
    call(compiler, kernel, values, one, two)
    padded = np.concatenate([values, np.ones(12, host)])
    np.testing.assert_array_equal(one, np.where(np.arange(32) % 3 != 1, padded, np.zeros(32, host)))
    expected = np.concatenate([values[:8], np.ones(8, host), np.zeros(16, host)])
    np.testing.assert_array_equal(two, expected)


@compilers
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64, dtypes.bool_, dtypes.uint8])
@pytest.mark.parametrize("gate", ["none", "scalar", "vector"])
def test_gather_and_scatter(compiler, dtype, gate: str) -> None:
    """out[(5 i) mod 16] = x[(3 i) mod 16], where the gate is true."""
    host = dtypes.to_numpy(dtype)
    x, out = UOp.buffer(16, dtype, slot=0), UOp.buffer(16, dtype, slot=1)
    i = UOp.range(2, id=1)
    position = broadcast(i * 8, 8) + count(8)
    gates = {"none": (), "scalar": (i < 1,), "vector": (position < 11,)}[gate]
    other = (UOp.const(1, dtype.vec(8)), *gates) if gates else ()
    value = x.index(position * 3 % 16).load(*other, dtype=dtype.vec(8))
    kernel = linear(out.index(position * 5 % 16).store(value, *gates).end(i))
    values = np.random.default_rng(2).integers(0, 2, 16).astype(host)
    result = np.ones(16, host) * (dtype.kind != "b")
    result = result.astype(host)
    right = result.copy()
    steps = np.arange({"none": 16, "scalar": 8, "vector": 11}[gate])
    right[steps * 5 % 16] = values[steps * 3 % 16]
    call(compiler, kernel, values, result)
    np.testing.assert_array_equal(result, right)


@compilers
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bool_, dtypes.int64, dtypes.bfloat16])
def test_vectors_are_built_and_taken_apart(compiler, dtype) -> None:
    host = dtypes.to_numpy(dtype)
    x, out = UOp.buffer(8, dtype, slot=0), UOp.buffer(8, dtype, slot=1)
    value = x.index(0).load(dtype=dtype.vec(8))
    turned = extract(value, 7, 5, 3, 1)
    rest = lanes(extract(value, 0), extract(value, 2), UOp.const(1, dtype), extract(turned, 3))
    kernel = linear(UOp.group(out.index(0).store(turned), out.index(4).store(rest)))
    values = np.array([0, 1, 1, 0, 0, 1, 0, 1]).astype(host)
    result = np.zeros(8, host)
    call(compiler, kernel, values, result)
    right = np.array([*values[[7, 5, 3, 1]], values[0], values[2], host.type(1), values[1]], host)
    np.testing.assert_array_equal(result, right)


@compilers
def test_vectors_of_bool_in_registers(compiler) -> None:
    registers = UOp.buffer(2, dtypes.bool_.vec(4), slot=0, space=AddressSpace.REG)
    x, out = UOp.buffer(8, dtypes.int32, slot=0), UOp.buffer(8, dtypes.bool_, slot=1)
    stores = [
        registers.index(k).store(x.index(k * 4).load(dtype=dtypes.int32.vec(4)) < 3) for k in (0, 1)
    ]
    state = registers.after(*stores)
    either = [state.index(k).load(dtype=dtypes.bool_.vec(4)).logical_not() for k in (0, 1)]
    kernel = linear(UOp.group(*(out.index(k * 4).store(either[k]) for k in (0, 1))))
    values, result = np.arange(8, dtype=np.int32), np.zeros(8, bool)
    call(compiler, kernel, values, result)
    np.testing.assert_array_equal(result, values >= 3)


@compilers
def test_constants_keep_their_bits(compiler) -> None:
    numbers = [
        (dtypes.float32, [-0.0, float("inf"), float("-inf"), float("nan"), 1e-45, 0.1]),
        (dtypes.float64, [-0.0, float("inf"), float("-inf"), float("nan"), 5e-324, 0.1]),
        (dtypes.int64, [-(2**63), 2**63 - 1, -1]),
        (dtypes.int32, [-(2**31), 2**31 - 1]),
        (dtypes.uint64, [2**64 - 1]),
        (dtypes.uint32, [2**32 - 1]),
        (dtypes.int8, [-128]),
        (dtypes.bfloat16, [-0.0, 1.5]),
    ]
    stores, results, expected = [], [], []
    for slot, (dtype, values) in enumerate(numbers):
        size = len(values) * 5
        buffer = UOp.buffer(size, dtype, slot=slot)
        for k, v in enumerate(values):
            stores.append(buffer.index(k * 5).store(UOp.const(v, dtype)))
            stores.append(buffer.index(k * 5 + 1).store(UOp.const(v, dtype.vec(4))))
        results.append(np.zeros(size, dtypes.to_numpy(dtype)))
        expected.append(np.repeat(np.array(values).astype(dtypes.to_numpy(dtype)), 5))
    call(compiler, linear(UOp.group(*stores)), *results)
    for result, right in zip(results, expected):
        np.testing.assert_array_equal(result, right)
        if result.dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(result), np.signbit(right))


def test_known_divisors() -> None:
    i, j = UOp.range(10, id=1), UOp.range(10, id=2)
    assert known_divisor(i * 16 + j * 8, {}) == 8
    assert known_divisor(i * 128, {}) == 64
    assert known_divisor(i * 12 + 2, {}) == 2
    assert known_divisor(i + 64, {}) == 1
    assert known_divisor((i << 3) * 2, {}) == 16


def test_alignment_is_stated_only_where_it_is_known() -> None:
    local = UOp.buffer(64, dtypes.float32, slot=64, space=AddressSpace.LOCAL)
    out = UOp.buffer(64, dtypes.float32, slot=0)
    i = UOp.range(4, id=1)
    vector = dtypes.float32.vec(16)
    stores = [
        out.index(i * 16).store(local.index(i * 16).load(dtype=vector)),
        out.index(i * 16).store(local.index(i * 16 + 4).load(dtype=vector)),
    ]
    source = HostLlvmIrRenderer(CAPABILITIES).render(linear(UOp.group(*stores).end(i)))
    loads = [line.rsplit(" ", 1)[1] for line in source.splitlines() if "load <16" in line]
    assert sorted(loads) == ["16", "64"]
    assert all(line.endswith("align 4") for line in source.splitlines() if "store <16" in line)


@pytest.mark.parametrize("renderer", [LlvmIrRenderer, CStyleRenderer])
def test_base_renderers_refuse_what_their_target_has_not(renderer) -> None:
    part = UOp(Op.SPECIAL, dtypes.index, (UOp.const(4),), "part")
    out = UOp.buffer(4, dtypes.int64, slot=0)
    kernel = linear(out.index(part).store(part.cast(dtypes.int64)))
    with pytest.raises(UnsupportedError, match="part"):
        renderer(CAPABILITIES).render(kernel)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_rendering_is_linear_and_fast(compiler) -> None:
    """Tens of microseconds a node would make rendering slower than compiling."""

    def seconds(length: int) -> float:
        value = UOp.buffer(1, dtypes.float32, slot=0).index(0).load()
        for _ in range(length):
            value = value * value + value
        store = UOp.buffer(1, dtypes.float32, slot=1).index(0).store(value)
        kernel = LinearKernel.of("kernel", toposort(store))
        start = time.process_time()
        compiler.renderer.render(kernel)
        return (time.process_time() - start) / len(kernel.uops)

    short = min(seconds(500) for _ in range(3))
    long = min(seconds(10_000) for _ in range(3))
    assert long < 20e-6 and long < 5 * short, (short, long)
