"""Boxes that one thread fetches: their maps, what the binary says of them, and the machine code."""

from __future__ import annotations

import struct

import pytest
from gpu_kernels import HOPPER, disassembled, instructions_of, linear, target, thread

from dovetile import dtypes
from dovetile.ir import AddressSpace, Op, UOp
from dovetile.ir.ops import Box
from dovetile_nv import cubin, cuda_compiler
from dovetile_nv.boxes import MAP_BYTES, TensorMap, data_words, encoded, read_maps
from dovetile_nv.cuda_renderer import CudaRenderer

WHERE = 0x7F12_3456_7000
# (bytes of an element, box, words that are not zero): as NVIDIA's encoder, cuTensorMapEncodeTiled,
# wrote them for 8, 16 (here as integers) and 32 bits.
ENCODED = [
    (
        2, Box((4096, 4096), (1, 4096), (64, 128), True),
        {2: 0x46090, 3: 0x200, 8: 0xFFF, 9: 0xFFF, 13: 0x3F000000, 14: 0x7F, 16: 0x4000, 18: 0x400},
    ),
    (
        2, Box((64, 4096, 64, 7, 9), (1, 4096, 64, 1 << 25, 1 << 33), (64, 8, 2, 3, 4), True),
        {
            2: 0x460C0, 3: 0x200, 4: 8, 5: 0x400000, 6: 0x40000000, 8: 0x3F, 9: 0xFFF, 10: 0x3F,
            11: 6, 12: 8, 13: 0x3F000000, 14: 0x03020107, 16: 0x6000, 18: 0x400,
        },
    ),
    (
        2, Box((4096, 4096), (1, (1 << 39) - 8), (8, 8)),
        {
            2: 0x40090, 3: 0xFFFFFFFF, 7: 0xF, 8: 0xFFF, 9: 0xFFF, 13: 0x07000000, 14: 7,
            16: 0x80, 18: 0x10,
        },
    ),
    (
        1, Box((4096, 77), (1, 4096), (128, 64), True),
        {2: 0x46010, 3: 0x100, 8: 0xFFF, 9: 0x4C, 13: 0x7F000000, 14: 0x3F, 16: 0x2000, 18: 0x400},
    ),
    (
        4, Box((4096, 77), (1, 4096), (32, 64), True),
        {2: 0x46390, 3: 0x400, 8: 0xFFF, 9: 0x4C, 13: 0x1F000000, 14: 0x3F, 16: 0x2000, 18: 0x400},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("itemsize", "box", "words"), ENCODED)
def test_maps_are_encoded_as_the_driver_does(itemsize: int, box: Box, words: dict[int, int]):
    found = encoded(TensorMap(0, itemsize, box), WHERE)
    assert len(found) == MAP_BYTES
    expected = {0: WHERE & 0xFFFFFFFF, 1: WHERE >> 32, **words}
    assert {i: w for i, w in enumerate(struct.unpack("<32I", found)) if w} == expected


def test_what_the_binary_says_is_read_back():
    maps = tuple(TensorMap(i, itemsize, box) for i, (itemsize, box, _) in enumerate(ENCODED))
    assert read_maps(data_words(maps) + [7]) == maps  # with other data behind it
    assert read_maps([]) == ()


def fetching():
    """64 threads store the 64 x 64 box of a matrix that one of them has fetched."""
    box = Box((1024, 1024), (1, 1024), (64, 64), exchanged=True)
    source = UOp.buffer(1 << 20, dtypes.bfloat16, slot=1)
    memory = UOp.buffer(64 * 64, dtypes.bfloat16, slot=0, space=AddressSpace.LOCAL)
    arrivals = UOp.buffer(1, dtypes.uint64, slot=8192, space=AddressSpace.LOCAL)
    local, zero = thread(64), UOp.const(0)
    first = local < 1
    one = UOp.const(1, dtypes.uint64)
    begun = UOp(
        Op.BARRIER, dtypes.void,
        (UOp(Op.STORE, dtypes.void, (arrivals.index(zero), one, first), "arrivals"),), "workgroup",
    )  # fmt: skip
    arrivals = arrivals.after(begun)
    operands = (memory.index(zero), arrivals.index(zero), first, source, UOp.const(128), zero)
    fetch = UOp(Op.FETCH, dtypes.void, operands, box)
    there = UOp(Op.WAIT, dtypes.void, (arrivals.index(zero), zero, fetch))
    out = UOp.buffer(64, dtypes.bfloat16, slot=0)
    return linear(out.index(local).store(memory.after(there).index(local * 64).load()))


needs_nvrtc = pytest.mark.skipif(
    cuda_compiler.available() is not None, reason=cuda_compiler.available() or ""
)


@needs_nvrtc
def test_the_maps_are_arguments_of_the_kernel():
    source = CudaRenderer(target(HOPPER)).render(fetching())
    kernel = cubin.read(cuda_compiler.CudaCompiler(target(HOPPER)).compile(source)).kernels[
        "kernel"
    ]
    ((offset, found),) = kernel.maps
    assert found == TensorMap(1, 2, Box((1024, 1024), (1, 1024), (64, 64), True))
    # The hardware wants it at a multiple of 64 bytes of the constant bank.
    assert (kernel.arguments_offset + offset) % 64 == 0
    assert kernel.arguments_bytes == offset + MAP_BYTES


@needs_nvrtc
@disassembled
def test_one_instruction_fetches_the_box():
    words = instructions_of("CUDA", fetching())
    assert len([w for w in words if w.startswith("UTMALDG.2D")]) == 1
    assert [w for w in words if w.startswith("SYNCS.PHASECHK")]
    assert not [w for w in words if w.startswith("LDG")]
