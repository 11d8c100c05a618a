"""Relocations: how an object file's code is told the addresses of what it uses.

Formulas and names are those of the ELF supplements: S is the symbol's address, A the addend, P the
address of the place that is patched, G the address of a word that holds S.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Protocol

from dovetile.errors import CompileError


class Image(Protocol):
    """The loaded object while it is being put together."""

    address: int
    image: bytearray

    def stub(self, target: int) -> int:
        """Address of a jump to `target`."""
        ...

    def word(self, target: int) -> int:
        """Address of a word that holds `target`."""
        ...


class Relocator(Protocol):
    """The relocations of one instruction set."""

    STUB_SIZE: ClassVar[int]

    @staticmethod
    def stub_code(target: int) -> bytes:
        """Code that jumps to any address."""
        ...

    @staticmethod
    def apply(image: Image, offset: int, kind: int, target: int, addend: int) -> None:
        """Patch the place at `offset` of the image. Raises CompileError where it cannot."""
        ...


def _check(value: int, bits: int, what: str) -> int:
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise CompileError(f"[load] {what}: the target is too far away ({value:#x})")
    return value


class X86_64:
    """R_X86_64_*: code that LLVM and clang make with position-independent, small code."""

    STUB_SIZE: ClassVar[int] = 16

    @staticmethod
    def stub_code(target: int) -> bytes:
        return b"\xff\x25\x00\x00\x00\x00" + struct.pack("<Q", target)  # jmp [rip+0]

    @staticmethod
    def apply(image: Image, offset: int, kind: int, target: int, addend: int) -> None:
        place = image.address + offset
        if kind == 0:  # NONE
            return
        if kind == 1:  # 64: S + A
            struct.pack_into("<Q", image.image, offset, (target + addend) & (2**64 - 1))
            return
        if kind == 24:  # PC64: S + A - P
            struct.pack_into("<q", image.image, offset, target + addend - place)
            return
        if kind in (2, 4):  # PC32, PLT32: S + A - P
            value = target + addend - place
            if kind == 4 and not -(2**31) <= value < 2**31:
                value = image.stub(target) + addend - place
        elif kind in (9, 41, 42):  # GOTPCREL, GOTPCRELX, REX_GOTPCRELX: G + A - P
            value = image.word(target) + addend - place
        elif kind == 11:  # 32S: S + A
            value = target + addend
        elif kind == 10:  # 32: S + A, unsigned
            if not 0 <= target + addend < 2**32:
                raise CompileError(f"[load] R_X86_64_32: {target:#x} needs more than 32 bits")
            struct.pack_into("<I", image.image, offset, target + addend)
            return
        else:
            raise CompileError(f"[load] x86-64 relocation {kind} is not supported")
        struct.pack_into("<i", image.image, offset, _check(value, 32, f"x86-64 relocation {kind}"))


class AArch64:
    """R_AARCH64_*: calls, and addresses in two steps (page, then offset within the page)."""

    STUB_SIZE: ClassVar[int] = 16
    # Access size, as a power of two, of the load/store relocations.
    _ACCESS_SHIFT = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}

    @staticmethod
    def stub_code(target: int) -> bytes:
        return struct.pack("<IIQ", 0x58000050, 0xD61F0200, target)  # ldr x16, +8; br x16

    @staticmethod
    def apply(image: Image, offset: int, kind: int, target: int, addend: int) -> None:
        place = image.address + offset
        value = target + addend
        if kind in (0, 256):  # NONE
            return
        if kind == 257:  # ABS64
            struct.pack_into("<Q", image.image, offset, value & (2**64 - 1))
            return
        if kind == 260:  # PREL64
            struct.pack_into("<q", image.image, offset, value - place)
            return
        if kind == 261:  # PREL32
            struct.pack_into("<i", image.image, offset, _check(value - place, 32, "PREL32"))
            return
        (instruction,) = struct.unpack_from("<I", image.image, offset)
        if kind in (282, 283):  # JUMP26, CALL26
            distance = value - place
            if not -(2**27) <= distance < 2**27:
                distance = image.stub(target) + addend - place
            _check(distance, 28, "CALL26")
            instruction = instruction & 0xFC000000 | (distance >> 2) & 0x03FFFFFF
        elif kind in (275, 276, 311):  # ADR_PREL_PG_HI21(_NC), ADR_GOT_PAGE
            if kind == 311:
                value = image.word(target) + addend
            pages = (value >> 12) - (place >> 12)
            _check(pages, 21, "ADR_PREL_PG_HI21")
            instruction &= 0x9F00001F
            instruction |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
        elif kind == 312:  # LD64_GOT_LO12_NC
            within = image.word(target) + addend & 0xFFF
            instruction = instruction & 0xFFC003FF | (within >> 3) << 10
        elif kind in AArch64._ACCESS_SHIFT:  # ADD_ABS_LO12_NC, LDST*_ABS_LO12_NC
            within = (value & 0xFFF) >> AArch64._ACCESS_SHIFT[kind]
            instruction = instruction & 0xFFC003FF | within << 10
        else:
            raise CompileError(f"[load] AArch64 relocation {kind} is not supported")
        struct.pack_into("<I", image.image, offset, instruction)


RELOCATORS: dict[int, type[Relocator]] = {62: X86_64, 183: AArch64}
"""By ELF machine number."""
