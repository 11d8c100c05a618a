"""Shared memory, barriers and shuffles."""

from __future__ import annotations

import pytest
from gpu_kernels import (
    HOPPER,
    architectures,
    compilers,
    cubin_of,
    disassembled,
    group,
    instructions_of,
    linear,
    source_of,
    target,
    thread,
)

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.errors import UnsupportedError
from dovetile.ir import AddressSpace, Op, UOp
from dovetile_nv.capabilities import ARCHITECTURES

THREADS = 256


def shuffled(value: UOp, distance: int) -> UOp:
    return UOp(Op.SHUFFLE, value.dtype, (value,), distance)


def barrier(*effects: UOp, scope: str = "workgroup") -> UOp:
    return UOp(Op.BARRIER, dtypes.void, effects, scope)


def row_sum(dtype: DType = dtypes.float32, architecture: str = HOPPER, slot: int = 0):
    """Every workgroup sums a row: in each thread, over warps by shuffles, through shared memory."""
    warps = THREADS // 32
    x, out = UOp.buffer(1024 * THREADS * 4, dtype, slot=1), UOp.buffer(1024, dtype, slot=0)
    row, local = group(1024), thread(THREADS)
    four = x.index((row * THREADS + local) * 4).load(dtype=dtype.vec(4))
    parts = [UOp(Op.EXTRACT, dtype, (four,), (lane,)) for lane in range(4)]
    total = (parts[0] + parts[1]) + (parts[2] + parts[3])
    for distance in (16, 8, 4, 2, 1):
        total = total + shuffled(total, distance)
    shared = UOp.buffer(warps, dtype, slot=slot, space=AddressSpace.LOCAL)
    filled = shared.after(barrier(shared.index(local // 32).store(total, (local % 32) < 1)))
    sums = [filled.index(warp).load() for warp in range(warps)]
    while len(sums) > 1:
        sums = [a + b for a, b in zip(sums[::2], sums[1::2])]
    return linear(out.index(row).store(sums[0], local < 1), architecture)


@disassembled
@compilers
def test_a_row_is_summed_with_one_barrier(compiler: str) -> None:
    words = instructions_of(compiler, row_sum())
    assert len([w for w in words if w.startswith("SHFL.BFLY")]) == 5
    assert len([w for w in words if w.startswith("BAR.SYNC")]) == 1
    assert len([w for w in words if w.startswith("LDG")]) == 1
    assert [w for w in words if w.startswith("LDS")] == ["LDS.128"] * 2
    assert len([w for w in words if w.startswith("STS")]) == 1


@compilers
@architectures
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float16], ids=lambda d: d.name)
def test_every_architecture(compiler: str, architecture: str, dtype: DType) -> None:
    cubin_of(compiler, row_sum(dtype, architecture), architecture)


@disassembled
@compilers
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("dtype", dtypes.TENSOR_DTYPES, ids=lambda d: d.name)
def test_values_of_every_type_change_lanes(compiler: str, dtype: DType, lanes: int) -> None:
    x, out = (UOp.buffer(64 * lanes, dtype, slot=slot) for slot in (1, 0))
    position = thread(64) * lanes
    value = shuffled(x.index(position).load(dtype=dtype.vec(lanes)), 5)
    words = instructions_of(compiler, linear(out.index(position).store(value)))
    registers = lanes * (2 if dtype.itemsize == 8 else 1)
    assert len([w for w in words if w.startswith("SHFL.BFLY")]) == registers


@disassembled
@compilers
def test_tiles_go_through_shared_memory_in_whole_accesses(compiler: str) -> None:
    """A tile is written by rows of 16 bytes, and read by others after a barrier."""
    vector = dtypes.bfloat16.vec(8)
    x, out = (UOp.buffer(1 << 20, dtypes.bfloat16, slot=slot) for slot in (1, 0))
    local = thread(THREADS)
    tile = UOp.buffer(THREADS * 8, dtypes.bfloat16, slot=1024, space=AddressSpace.LOCAL)
    position = (group(64) * THREADS + local) * 8
    fill = barrier(tile.index(local * 8).store(x.index(position).load(dtype=vector)))
    turned = (local % 16) * 16 + local // 16
    store = out.index(position).store(tile.after(fill).index(turned * 8).load(dtype=vector))
    kernel = linear(store)
    words = instructions_of(compiler, kernel)
    for wanted in ("LDG.E.128", "STS.128", "LDS.128", "STG.E.128"):
        assert len([w for w in words if w.startswith(wanted)]) == 1, (wanted, words)


@compilers
@pytest.mark.parametrize("architecture", [HOPPER, "sm_80", "sm_120a"])
def test_all_the_shared_memory_there_is(compiler: str, architecture: str) -> None:
    """Above 48 KiB it is dynamic, and the binary says how much."""
    most = target(architecture).local_bytes
    assert most == ARCHITECTURES[architecture].local_bytes
    for nbytes, named in ((48 << 10, False), (most, True)):
        kernel = row_sum(slot=nbytes - 32)
        assert kernel.local_bytes == nbytes
        cubin = cubin_of(compiler, kernel, architecture)
        assert (b"kernel_local_bytes" in cubin) is named
        if named:
            assert nbytes.to_bytes(4, "little") in cubin


@compilers
def test_a_grid_barrier_is_refused(compiler: str) -> None:
    out = UOp.buffer(64, dtypes.float32, slot=0)
    first = out.index(thread(64)).store(UOp.const(1.0, dtypes.float32))
    after = out.after(barrier(first, scope="grid"))
    store = after.index(thread(64)).store(UOp.const(2.0, dtypes.float32))
    with pytest.raises(UnsupportedError, match="grid barrier"):
        source_of(compiler, linear(store))


@compilers
def test_another_hardware_index_is_refused(compiler: str) -> None:
    part = UOp(Op.SPECIAL, dtypes.index, (UOp.const(4),), "part")
    out = UOp.buffer(4, dtypes.float32, slot=0)
    with pytest.raises(UnsupportedError, match="part"):
        source_of(compiler, linear(out.index(part).store(UOp.const(1.0, dtypes.float32))))
