"""Boxes of memory that one thread fetches: Hopper's tensor copies and the barriers they arrive at.

A copy is described by a tensor map, an argument of the kernel that the runtime encodes; the binary
says of which buffer and box each is. Instructions: PTX manual, `cp.async.bulk.tensor`, `mbarrier`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dovetile.ir.ops import Box, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel

_WORDS = 3 + 3 * 5  # of a map in the binary's data
MAP_BYTES = 128
_ELEMENTS = {1: 0, 2: 1, 4: 7}  # numbers of so many bytes: what they mean does not matter
_EXCHANGED_IN_128 = 3
_BEYOND_LEVEL = 2 << 17  # how much more the second cache reads: 256 bytes


@dataclass(frozen=True)
class TensorMap:
    """A box of a kernel's buffer."""

    argument: int
    """Which of the kernel's arguments the buffer is."""
    itemsize: int
    box: Box

    def words(self) -> list[int]:
        """What the binary says of it."""
        box, rank = self.box, len(self.box.sizes)
        words = [self.argument, self.itemsize, rank * 2 + box.exchanged]
        for numbers in (box.extents, box.strides, box.sizes):
            words += [*numbers, *[0] * (5 - rank)]
        return words


def tensor_maps(kernel: LinearKernel) -> dict[tuple[UOp, Box], TensorMap]:
    """The maps of a kernel by buffer and box, in the order of their arguments."""
    maps: dict[tuple[UOp, Box], TensorMap] = {}
    for node in kernel.uops:
        if node.op is Op.FETCH:
            buffer, box = node.src[3], node.arg
            argument = kernel.buffers.index(buffer)
            maps[buffer, box] = TensorMap(argument, buffer.dtype.itemsize, box)
    return maps


def data_name(kernel: str) -> str:
    """The name of the data that describes a kernel's maps."""
    return f"{kernel}_tensor_maps"


def data_words(maps: Collection[TensorMap]) -> list[int]:
    """That data: how many there are, and each."""
    return [len(maps), *(word for found in maps for word in found.words())]


def read_maps(words: Sequence[int]) -> tuple[TensorMap, ...]:
    """The maps that such data describes; none where there is no data."""
    found = []
    for start in range(1, 1 + _WORDS * (words[0] if words else 0), _WORDS):
        argument, itemsize, form, *numbers = words[start : start + _WORDS]
        extents, strides, sizes = (tuple(numbers[5 * i : 5 * i + (form >> 1)]) for i in range(3))
        found.append(TensorMap(argument, itemsize, Box(extents, strides, sizes, bool(form & 1))))
    return tuple(found)


def encoded(found: TensorMap, address: int) -> bytes:
    """The map of a buffer at `address`, as the hardware reads it.

    The layout is not documented: it is what the driver's own encoder was seen to write on Hopper.
    """
    box, rank = found.box, len(found.box.sizes)
    pitches = [stride * found.itemsize >> 4 for stride in box.strides[1:]]
    words = [0] * (MAP_BYTES // 4)
    words[0], words[1] = address & 0xFFFFFFFF, address >> 32
    words[2] = _BEYOND_LEVEL | rank - 1 << 4 | _ELEMENTS[found.itemsize] << 7
    words[2] |= _EXCHANGED_IN_128 << 13 if box.exchanged else 0
    for axis, pitch in enumerate(pitches):
        words[3 + axis] = pitch & 0xFFFFFFFF
        words[7] |= (pitch >> 32) << 4 * axis
    for axis, (extent, size) in enumerate(zip(box.extents, box.sizes)):
        words[8 + axis] = extent - 1
        # Sizes are bytes in a row that begins at the last of a word.
        words[13 + (axis + 3) // 4] |= size - 1 << (axis + 3) % 4 * 8
    words[16] = math.prod(box.sizes) * found.itemsize
    words[18] = 0x400 if box.exchanged else 0x10
    return struct.pack("<32I", *words)


# What both compilers write, in assembly; operands are %0, %1, ... Of arrivals at a place: a number
# makes a round, so many bytes are to come in this one, and the round of this parity is awaited.
BEGIN = "mbarrier.init.shared::cta.b64 [%0], %1; fence.mbarrier_init.release.cluster;"
EXPECT = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
AWAIT = (
    "{ .reg .pred p; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra AGAIN; }"
)


def fetch_text(rank: int) -> str:
    """Begins a copy to %0 from the box of map %1 at %3, ..., which arrives at %2."""
    numbers = ", ".join(f"%{axis + 3}" for axis in range(rank))
    return (
        f"cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes "
        f"[%0], [%1, {{{numbers}}}], [%2];"
    )


HELPERS = f"""
struct __align__(64) tensor_map {{ unsigned long long words[16]; }};
static __device__ inline unsigned place_of(const void* place) {{
  return (unsigned)__cvta_generic_to_shared(place);
}}
static __device__ inline void begin_rounds(void* place, unsigned arrivals) {{
  asm volatile("{BEGIN}" :: "r"(place_of(place)), "r"(arrivals) : "memory");
}}
static __device__ inline void await_round(void* place, unsigned round) {{
  asm volatile("{AWAIT}" :: "r"(place_of(place)), "r"(round & 1) : "memory");
}}
"""
_FETCH = f"""
static __device__ inline void fetch_RANK(void* to, void* place, const tensor_map& map,
                                         unsigned bytes, PARAMETERS) {{
  asm volatile("{EXPECT}" :: "r"(place_of(place)), "r"(bytes) : "memory");
  asm volatile("TEXT" :: "r"(place_of(to)), "l"(&map), "r"(place_of(place)), COORDINATES
               : "memory");
}}
"""


def fetch_helper(rank: int) -> str:
    """The function that fetches a box of so many axes."""
    parts = {
        "RANK": str(rank),
        "PARAMETERS": ", ".join(f"int c{axis}" for axis in range(rank)),
        "TEXT": fetch_text(rank),
        "COORDINATES": ", ".join(f'"r"(c{axis})' for axis in range(rank)),
    }
    text = _FETCH
    for name, part in parts.items():
        text = text.replace(name, part)
    return text


def box_bytes(node: UOp) -> int:
    """Bytes that a FETCH brings."""
    return math.prod(node.arg.sizes) * node.src[3].dtype.itemsize
