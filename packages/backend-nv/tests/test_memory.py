"""Accesses to memory of every kind, and what they are in the machine."""

from __future__ import annotations

import pytest
from gpu_kernels import (
    HOPPER,
    architectures,
    compilers,
    cubin_of,
    disassembled,
    elementwise,
    group,
    instructions_of,
    linear,
    source_of,
    thread,
)

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir import AddressSpace, Op, UOp

VECTORS = [d.vec(16 // d.itemsize) for d in dtypes.TENSOR_DTYPES]


def copy(dtype: DType, offset: int = 0):
    count = 1024 * 256 * dtype.lanes
    position = (group(1024) * 256 + thread(256)) * dtype.lanes + offset
    x, out = (UOp.buffer(count + 64, dtype.scalar, slot=slot) for slot in (1, 0))
    return linear(out.index(position).store(x.index(position).load(dtype=dtype)))


def among(words: list[str], start: str) -> list[str]:
    return [word for word in words if word.startswith(start)]


@disassembled
@compilers
@pytest.mark.parametrize("dtype", VECTORS, ids=lambda d: d.name)
def test_sixteen_bytes_are_one_access(compiler: str, dtype: DType) -> None:
    words = instructions_of(compiler, copy(dtype))
    assert [w.split(".CONSTANT")[0] for w in among(words, "LDG")] == ["LDG.E.128"], words
    assert among(words, "STG") == ["STG.E.128"], words


@disassembled
@compilers
def test_longer_vectors_are_several_and_shorter_ones_one(compiler: str) -> None:
    words = instructions_of(compiler, copy(dtypes.float32.vec(16)))
    assert among(words, "STG") == ["STG.E.128"] * 4
    words = instructions_of(compiler, copy(dtypes.float16.vec(4)))
    assert among(words, "STG") == ["STG.E.64"]


@disassembled
@compilers
@pytest.mark.parametrize("offset, width", [(4, "STG.E.128"), (2, "STG.E.64"), (1, "STG.E")])
def test_no_access_is_wider_than_its_address_is_aligned(
    compiler: str, offset: int, width: str
) -> None:
    words = instructions_of(compiler, copy(dtypes.float32.vec(4), offset))
    assert set(among(words, "STG")) == {width}, words


@disassembled
@compilers
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bfloat16, dtypes.bool_, dtypes.int8])
def test_computed_values_are_stored_whole(compiler: str, dtype: DType) -> None:
    lanes = 16 // dtype.itemsize
    words = instructions_of(compiler, elementwise(lambda x, y: x * y, [dtype, dtype], lanes))
    assert among(words, "STG") == ["STG.E.128"], words
    assert len(among(words, "LDG.E.128")) == 2, words


@compilers
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bool_, dtypes.bfloat16, dtypes.int64])
@pytest.mark.parametrize("gate", ["scalar", "vector"])
def test_gates_gathers_and_scatters(compiler: str, dtype: DType, gate: str) -> None:
    i = group(16) * 64 + thread(64)
    x, out, spread = (UOp.buffer(4096, dtype, slot=slot) for slot in (1, 0, 2))
    lanes = UOp(Op.VECTOR, dtypes.index.vec(4), tuple(i * 4 + lane for lane in range(4)))
    test = i < 700 if gate == "scalar" else lanes < 2801
    other = UOp.const(1, dtype.vec(4))
    whole = x.index(i * 4).load(other, test, dtype=dtype.vec(4))
    gathered = x.index(lanes * 5 % 4096).load(other, test, dtype=dtype.vec(4))
    stores = [
        out.index(i * 4).store(whole * gathered, test),
        spread.index(lanes * 3 % 4096).store(gathered, test),
        UOp.buffer(4096, dtype, slot=3).index(lanes).store(whole),
    ]
    cubin_of(compiler, linear(UOp.group(*stores)))


def product(rows: int, width: int, dtype: DType = dtypes.float32, architecture: str = HOPPER):
    """C[m, n] = sum_k A[m, k] B[k, n]: a tile of `rows` rows and `width` columns in registers."""
    inner, columns = 256, 1024
    m, n = group(64) * rows, thread(128) * width
    vector = dtype.vec(width)
    a, b = (UOp.buffer(1 << 20, dtype, slot=slot) for slot in (1, 2))
    c = UOp.buffer(64 * rows * columns, dtype, slot=0)
    registers = UOp.buffer(rows, vector, slot=0, space=AddressSpace.REG)
    k = UOp.range(inner, id=1)
    zero = UOp.const(0.0, vector)
    state = registers.after(UOp.group(*(registers.index(i).store(zero) for i in range(rows))), k)
    right = b.index(k * columns + n).load(dtype=vector)
    updates = []
    for i in range(rows):
        left = UOp(Op.VECTOR, vector, (a.index((m + i) * inner + k).load(),))
        address = state.index(i)
        updates.append(address.store(address.load(dtype=vector) + left * right))
    final = registers.after(UOp.group(*updates).end(k))
    stores = [
        c.index((m + i) * columns + n).store(final.index(i).load(dtype=vector)) for i in range(rows)
    ]
    return linear(UOp.group(*stores), architecture)


@disassembled
@compilers
def test_accumulators_stay_in_registers(compiler: str) -> None:
    """`instructions_of` refuses local memory; each step is fused multiply-adds alone."""
    words = instructions_of(compiler, product(8, 8))
    assert not among(words, "FMUL") and not among(words, "FADD")
    assert len(among(words, "FFMA")) % 64 == 0 and among(words, "FFMA")


@compilers
@architectures
def test_products_compile(compiler: str, architecture: str) -> None:
    cubin_of(compiler, product(4, 4, architecture=architecture), architecture)


@compilers
def test_an_array_that_a_loop_indexes(compiler: str) -> None:
    """It cannot be registers; local memory is right then."""
    array = UOp.buffer(8, dtypes.int32, slot=0, space=AddressSpace.REG)
    x, out = (UOp.buffer(8 * 64, dtypes.int32, slot=slot) for slot in (1, 0))
    i, j = UOp.range(8, id=1), UOp.range(8, id=2)
    base = thread(64) * 8
    fill = array.index(i).store(x.index(base + i).load()).end(i)
    store = out.index(base + j).store(array.after(fill).index(j * -1 + 7).load()).end(j)
    cubin_of(compiler, linear(store))


@compilers
def test_indices_have_64_bits_only_where_they_need_them(compiler: str) -> None:
    """The same kernel on more memory: past 2**31 elements."""

    def kernel(groups: int):
        flat = (group(groups) * 256 + thread(256)) * 8
        position = flat // 24 * 7
        x = UOp.buffer(groups * 256 * 8, dtypes.float32, slot=1)
        out = UOp.buffer(groups * 256 * 8, dtypes.float32, slot=0)
        return linear(out.index(flat).store(x.index(position).load()))

    narrow, wide = kernel(1 << 19), kernel(1 << 21)
    marks = {"CUDA": "long long v", "PTX": "i64 %v"}
    assert marks[compiler] not in source_of(compiler, narrow)
    assert marks[compiler] in source_of(compiler, wide)
    cubin_of(compiler, narrow)
    cubin_of(compiler, wide)


@compilers
def test_variables_and_loops_that_may_be_empty(compiler: str) -> None:
    size, start = UOp.variable("size", 0, 100), UOp.variable("first", -100, 100)
    out = UOp.buffer(64 * 128, dtypes.int64, slot=0)
    i = UOp.range(size, id=1)
    row = thread(64)
    value = (row * 1000 + i + start).cast(dtypes.int64)
    kernel = linear(out.index(row * 128 + i).store(value).end(i))
    cubin_of(compiler, kernel)
    source = source_of(compiler, kernel)
    # In order of their names, 8 bytes each.
    first, second = {
        "CUDA": ("long long value_first", "long long value_size"),
        "PTX": ("i64 %value.first", "i64 %value.size"),
    }[compiler]
    assert 0 < source.index(first) < source.index(second)
