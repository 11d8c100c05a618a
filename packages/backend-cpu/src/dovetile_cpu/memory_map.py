"""Anonymous memory from the operating system: for machine code, command rings and scratch.

The mappings are plain address ranges, not Python buffers: native threads may still use some of
them while the interpreter shuts down, so nothing here is ever released by the garbage collector.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from functools import cache

from dovetile.errors import OutOfMemoryError

PAGE = mmap.PAGESIZE
HUGE_PAGE = 2 << 20
_MADVISE_HUGE_PAGE = 14  # MADV_HUGEPAGE of Linux
_ON_MACOS = sys.platform == "darwin"
_MAP_JIT = 0x0800  # macOS on Apple silicon maps memory that is to become code only with this
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000) if sys.platform == "linux" else 0
_FAILED = ctypes.c_void_p(-1).value


@cache
def libc() -> ctypes.CDLL:
    """The C library of this process, its functions typed where we call them."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64
    )  # fmt: skip
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return library


def function_address(name: str) -> int | None:
    """Address of a function of the C library, None where it has no such function."""
    try:
        return ctypes.cast(getattr(libc(), name), ctypes.c_void_p).value
    except AttributeError:
        return None


def map_memory(nbytes: int, *, code: bool = False) -> int:
    """Address of `nbytes` (rounded up to pages) of zeroed, private, writable memory.

    With `code`, the memory may later be made executable. Raises OutOfMemoryError.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    if code and _ON_MACOS:
        flags |= _MAP_JIT
        protection |= mmap.PROT_EXEC
    address = libc().mmap(None, round_to_pages(nbytes), protection, flags, -1, 0)
    if address is None or address == _FAILED:
        reason = os.strerror(ctypes.get_errno())
        raise OutOfMemoryError(
            f"[allocate] {nbytes} bytes: the system refused ({reason}); free something first"
        )
    return address


def prefer_huge_pages(address: int, nbytes: int) -> None:
    """Ask for large pages, which make far fewer page faults and address translations. Advice: a
    system that offers none ignores it."""
    if hasattr(libc(), "madvise"):
        whole = nbytes // HUGE_PAGE * HUGE_PAGE
        libc().madvise(
            ctypes.c_void_p(address), ctypes.c_size_t(whole), ctypes.c_int(_MADVISE_HUGE_PAGE)
        )


def unmap_memory(address: int, nbytes: int) -> None:
    """Give a mapping back. Nothing may use it any more."""
    libc().munmap(address, round_to_pages(nbytes))


def write_code(address: int, content: bytes) -> None:
    """Copy machine code into memory mapped with ``code=True`` that is not executable yet."""
    if _ON_MACOS and hasattr(libc(), "pthread_jit_write_protect_np"):
        libc().pthread_jit_write_protect_np(0)
        ctypes.memmove(address, content, len(content))
        libc().pthread_jit_write_protect_np(1)
        return
    ctypes.memmove(address, content, len(content))


def make_executable(address: int, nbytes: int) -> None:
    """Turn written code into read-only code that can be executed."""
    if not _ON_MACOS:
        protection = mmap.PROT_READ | mmap.PROT_EXEC
        if libc().mprotect(address, round_to_pages(nbytes), protection) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise OutOfMemoryError(f"[load] memory cannot be made executable: {reason}")
    _flush_instruction_cache(address, nbytes)


def _flush_instruction_cache(address: int, nbytes: int) -> None:
    # x86 keeps its instruction cache coherent; others need the call their C runtime offers.
    if _ON_MACOS:
        libc().sys_icache_invalidate(ctypes.c_void_p(address), ctypes.c_size_t(nbytes))
    elif os.uname().machine not in ("x86_64", "i686"):
        runtime = _compiler_runtime()
        runtime.__clear_cache(ctypes.c_void_p(address), ctypes.c_void_p(address + nbytes))


@cache
def _compiler_runtime() -> ctypes.CDLL:
    return ctypes.CDLL("libgcc_s.so.1")


def round_to_pages(nbytes: int) -> int:
    """`nbytes` rounded up to whole pages, at least one."""
    return max(1, -(-nbytes // PAGE)) * PAGE
