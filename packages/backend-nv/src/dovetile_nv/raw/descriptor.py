"""Launch descriptors (queue meta data, QMD): what the GPU must know of a launch."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache

from dovetile_nv.cubin import Kernel
from dovetile_nv.raw.generations import Generation
from dovetile_nv.raw.hardware import DESCRIPTORS

DESCRIPTOR_BYTES = 512
"""Room for a descriptor; the GPU reads 256 (version 3) or 384 of them."""
ALIGNMENT = 256

STACK_RESERVE = 0x240
"""Bytes at the top of each thread's local memory that the hardware keeps for itself."""

# The order of launches is ours to keep: nothing else is scheduled by these.
_COMMON = {
    "QMD_GROUP_ID": 0x3F,
    "API_VISIBLE_CALL_LIMIT": 1,
    "SAMPLER_INDEX": 0,
    "INVALIDATE_TEXTURE_HEADER_CACHE": 1,
    "INVALIDATE_TEXTURE_SAMPLER_CACHE": 1,
    "INVALIDATE_TEXTURE_DATA_CACHE": 1,
    "INVALIDATE_SHADER_DATA_CACHE": 1,
    "INVALIDATE_SHADER_CONSTANT_CACHE": 1,
    "SM_GLOBAL_CACHING_ENABLE": 1,
    "CWD_MEMBAR_TYPE": 1,
    "PROGRAM_PREFETCH_TYPE": 0,
}
# Of a multiprocessor.
_REGISTERS, _THREADS, _GROUPS = 65536, 2048, 32
_RESERVED = 1024  # bytes of shared memory
_GRID = 2  # QMD_TYPE_GRID_CTA


class Layout:
    """How descriptors of a version are laid out."""

    def __init__(self, version: tuple[int, int]) -> None:
        self.version = version
        self.fields = DESCRIPTORS[version]

    def place(self, field: str, value: int, index: int = 0) -> int:
        """The value at its place in the descriptor, as one large number."""
        low, width, step = self.fields[field]
        if value >> width:
            raise ValueError(f"{field} takes {width} bits; {value:#x} has more")
        return value << low + index * step

    def build(self, values: dict[str, int], indexed: dict[tuple[str, int], int]) -> bytearray:
        """A descriptor; fields that this version does not have are left out."""
        number = 0
        for field, value in values.items():
            if field in self.fields:
                number |= self.place(field, value)
        for (field, index), value in indexed.items():
            if field in self.fields:
                number |= self.place(field, value, index)
        return bytearray(number.to_bytes(DESCRIPTOR_BYTES, "little"))

    def read(self, descriptor: bytes | bytearray, field: str, index: int = 0) -> int:
        """A field of a descriptor."""
        low, width, step = self.fields[field]
        return int.from_bytes(descriptor, "little") >> low + index * step & (1 << width) - 1

    def word(self, field: str, index: int = 0) -> int:
        """The offset in bytes of a field that begins on a word."""
        low, _, step = self.fields[field]
        return (low + index * step) // 8


def local_bytes(kernel: Kernel) -> int:
    """Local memory of each thread of a kernel."""
    return -(-(kernel.local_bytes + STACK_RESERVE) // 16) * 16 if kernel.local_bytes else 0


@cache
def layout(version: tuple[int, int]) -> Layout:
    return Layout(version)


def template(
    generation: Generation, kernel: Kernel, program_address: int, banks: dict[int, tuple[int, int]]
) -> bytearray:
    """The descriptor of a kernel without what each launch sets.

    Args:
        program_address: where its code lies. banks: (address, bytes) of its constant banks other
        than the first, by number.
    """
    shape = layout(generation.descriptor)
    major, minor = generation.descriptor
    shared = -(-kernel.shared_bytes // 128) * 128
    sizes = generation.shared_kilobytes
    smallest = _carved(sizes, shared)
    # Each workgroup takes some for the system besides.
    wanted = _carved(sizes, (shared + _RESERVED) * _resident(kernel))
    local = local_bytes(kernel)
    values = {
        **_COMMON,
        "QMD_MAJOR_VERSION": major,
        "QMD_MINOR_VERSION": minor,
        "QMD_TYPE": _GRID,
        "SASS_VERSION": kernel.target,
        "SHARED_MEMORY_SIZE": shared,
        "SHARED_MEMORY_SIZE_SHIFTED7": shared >> 7,
        "MIN_SM_CONFIG_SHARED_MEM_SIZE": smallest // 4 + 1,
        "TARGET_SM_CONFIG_SHARED_MEM_SIZE": wanted // 4 + 1,
        "MAX_SM_CONFIG_SHARED_MEM_SIZE": sizes[-1] // 4 + 1,
        "SHADER_LOCAL_MEMORY_HIGH_SIZE": local,
        "SHADER_LOCAL_MEMORY_HIGH_SIZE_SHIFTED4": local >> 4,
        "REGISTER_COUNT": kernel.registers,
        "REGISTER_COUNT_V": kernel.registers,
        "BARRIER_COUNT": kernel.barriers,
        "GRID_WIDTH": 1,
        "GRID_HEIGHT": 1,
        "GRID_DEPTH": 1,
        "CTA_RASTER_WIDTH": 1,
        "CTA_RASTER_HEIGHT": 1,
        "CTA_RASTER_DEPTH": 1,
        "CTA_THREAD_DIMENSION0": 1,
        "CTA_THREAD_DIMENSION1": 1,
        "CTA_THREAD_DIMENSION2": 1,
        "PROGRAM_ADDRESS_LOWER": program_address & 0xFFFFFFFF,
        "PROGRAM_ADDRESS_UPPER": program_address >> 32,
        "PROGRAM_ADDRESS_LOWER_SHIFTED4": program_address >> 4 & 0xFFFFFFFF,
        "PROGRAM_ADDRESS_UPPER_SHIFTED4": program_address >> 36,
        "PROGRAM_PREFETCH_ADDR_LOWER_SHIFTED": program_address >> 8 & 0xFFFFFFFF,
        "PROGRAM_PREFETCH_ADDR_UPPER_SHIFTED": program_address >> 40,
        "PROGRAM_PREFETCH_SIZE": min(kernel.code_bytes >> 8, 0x1FF),
    }
    indexed: dict[tuple[str, int], int] = {}
    for bank, (address, nbytes) in {0: (0, kernel.bank_bytes), **banks}.items():
        indexed["CONSTANT_BUFFER_VALID", bank] = 1
        indexed["CONSTANT_BUFFER_INVALIDATE", bank] = 1
        indexed["CONSTANT_BUFFER_SIZE_SHIFTED4", bank] = -(-nbytes // 16)
        indexed["CONSTANT_BUFFER_ADDR_LOWER", bank] = address & 0xFFFFFFFF
        indexed["CONSTANT_BUFFER_ADDR_UPPER", bank] = address >> 32
        indexed["CONSTANT_BUFFER_ADDR_LOWER_SHIFTED6", bank] = address >> 6 & 0xFFFFFFFF
        indexed["CONSTANT_BUFFER_ADDR_UPPER_SHIFTED6", bank] = address >> 38
    return shape.build(values, indexed)


def _carved(sizes: Sequence[int], nbytes: int) -> int:
    """The smallest size of shared memory, in KiB, that holds so much, or the largest."""
    return next((size for size in sizes if size * 1024 >= nbytes), sizes[-1])


def _resident(kernel: Kernel) -> int:
    """How many workgroups of a kernel registers and threads leave room for at a time."""
    threads = kernel.threads or 1024
    registers = max(1, -(-kernel.registers // 8) * 8 * -(-threads // 32) * 32)
    return max(1, min(_REGISTERS // registers, _THREADS // threads, _GROUPS))


class Patcher:
    """Writes what a launch sets into copies of templates. All offsets are found once."""

    def __init__(self, version: tuple[int, int]) -> None:
        shape = self._shape = layout(version)
        self.grid = shape.word("GRID_WIDTH" if "GRID_WIDTH" in shape.fields else "CTA_RASTER_WIDTH")
        self.threads = shape.word("CTA_THREAD_DIMENSION0")
        self.shift = 6 if "CONSTANT_BUFFER_ADDR_LOWER_SHIFTED6" in shape.fields else 0
        name = "CONSTANT_BUFFER_ADDR_LOWER" + ("_SHIFTED6" if self.shift else "")
        self.bank = shape.word(name)
        self._next = shape.word("DEPENDENT_QMD0_POINTER")
        indexed = "DEPENDENT_QMD_ENABLE" in shape.fields
        names = ("DEPENDENT_QMD_" if indexed else "DEPENDENT_QMD0_") + "%s"
        together = (
            shape.place(names % "ENABLE", 1)
            | shape.place(names % "ACTION", _SCHEDULE)
            | shape.place(names % "PREFETCH", 1)
        )
        self._next_word = shape.fields[names % "ENABLE"][0] // 32 * 4
        self._next_bits = together >> 8 * self._next_word  # the three lie in one word

    def set_launch(
        self, memory: bytearray, at: int, groups: int, threads: int, bank_address: int
    ) -> None:
        """Sets the number of workgroups, of threads in each, and the address of the constant bank
        with the arguments."""
        struct.pack_into("<I", memory, at + self.grid, groups)
        struct.pack_into("<H", memory, at + self.threads, threads)
        address = bank_address >> self.shift
        upper = struct.unpack_from("<I", memory, at + self.bank + 4)[0]
        struct.pack_into("<II", memory, at + self.bank, address & 0xFFFFFFFF, upper | address >> 32)

    def early(self, memory: bytearray, at: int, successor: int, latch: int) -> None:
        """Lets the launch at `successor`, which the one at `at` starts, begin once the workgroups
        of that say so, and has it wait (where its code does) for all of that to be complete."""
        for place, values in ((at, _FIRST), (successor, _SECOND)):
            for field, value in values.items():
                low, width, _ = self._shape.fields[field]
                (word,) = struct.unpack_from("<I", memory, place + low // 32 * 4)
                mask = (1 << width) - 1 << low % 32
                value = (latch if value is None else value) << low % 32
                struct.pack_into("<I", memory, place + low // 32 * 4, word & ~mask | value)

    def chain(self, memory: bytearray, at: int, successor: int) -> None:
        """Makes the launch at `at` start the one at the address `successor` when it is complete."""
        (word,) = struct.unpack_from("<I", memory, at + self._next_word)
        struct.pack_into("<I", memory, at + self._next_word, word | self._next_bits)
        struct.pack_into("<I", memory, at + self._next, successor >> 8)


# Of a launch that starts another early, and of that; None is the number of their latch.
_FIRST: dict[str, int | None] = {
    "ENABLE_PROGRAM_PRE_EXIT": 1,
    "ARRIVE_AT_LATCH_VALID": 1,
    "ARRIVE_AT_LATCH_ID": None,
}
_SECOND: dict[str, int | None] = {
    "WAIT_ON_LATCH_VALID": 1,
    "WAIT_ON_LATCH_ID": None,
    "LATCH_ACQUIRE_INVALIDATE_SHADER_DATA_CACHE": 1,
    "LATCH_ACQUIRE_INVALIDATE_TEXTURE_DATA_CACHE": 1,
}

_SCHEDULE = 1  # DEPENDENT_QMD_ACTION_QMD_SCHEDULE
