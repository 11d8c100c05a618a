"""The matrix units of this machine's processor, as the core's table, and how LLVM writes each."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import replace
from functools import cache

from dovetile.plugins.matrix_unit import MatrixUnit
from dovetile_cpu import host, memory_map

TILES = {
    unit.name: unit
    for unit in (
        MatrixUnit("tdpbf16ps", 16, 16, 32, "bfloat16", "bfloat16", "float32", 2, 8, 16),
        MatrixUnit("tdpbssd", 16, 16, 64, "int8", "int8", "int32", 4, 8, 16),
        MatrixUnit("tdpbusd", 16, 16, 64, "uint8", "int8", "int32", 4, 8, 16),
        MatrixUnit("tdpbsud", 16, 16, 64, "int8", "uint8", "int32", 4, 8, 16),
        MatrixUnit("tdpbuud", 16, 16, 64, "uint8", "uint8", "int32", 4, 8, 16),
    )
}
"""Of AMX (Intel's instruction set reference, chapter 3): eight registers of 16 rows of 64 bytes."""
DOTS = {
    unit.name: unit
    for unit in (
        MatrixUnit("vdpbf16ps", 1, 16, 2, "bfloat16", "bfloat16", "float32", 2, cycles=0.5),
        MatrixUnit("vpdpbusd", 1, 16, 4, "uint8", "int8", "int32", 4, cycles=0.5),
    )
}
"""Dot products of pairs and quadruples, in each lane of a vector of 64 bytes."""
_SLOW_PAIRS = 2.0
"""Cycles of vdpbf16ps on Intel's processors (measured on Sapphire Rapids: half the products of a
plain multiply-add, which then is better)."""
INTRINSICS = {
    "vdpbf16ps": "llvm.x86.avx512bf16.dpbf16ps.512",
    "vpdpbusd": "llvm.x86.avx512.vpdpbusd.512",
}
_FEATURES = {"amx_bf16": ["tdpbf16ps"], "amx_int8": ["tdpbssd", "tdpbusd", "tdpbsud", "tdpbuud"]}
_DOT_FEATURES = {"avx512_bf16": "vdpbf16ps", "avx512_vnni": "vpdpbusd"}


@cache
def available() -> tuple[MatrixUnit, ...]:
    """The units that this process may use."""
    known = host.features()
    found = []
    if "amx_tile" in known and _tiles_permitted():
        for feature, names in _FEATURES.items():
            found += [TILES[name] for name in names if feature in known]
    found += [DOTS[name] for feature, name in _DOT_FEATURES.items() if feature in known]
    if host.vendor() == "GenuineIntel":
        found = [replace(u, cycles=_SLOW_PAIRS) if u.name == "vdpbf16ps" else u for u in found]
    return tuple(found)


_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


def _tiles_permitted() -> bool:
    """Asks Linux for the tile registers, which each process must do once, and before it has threads
    that use them: their state is larger than the room it keeps for registers otherwise."""
    if not sys.platform.startswith("linux") or host.machine() != "x86_64":
        return False
    libc = memory_map.libc()
    arguments = (ctypes.c_long(n) for n in (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA))
    return libc.syscall(*arguments) == 0
