"""What this machine is: its cores, caches and vector width. Reads files, runs no benchmarks."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from functools import cache
from pathlib import Path

from dovetile import environment
from dovetile.errors import OutOfMemoryError
from dovetile.plugins import Capabilities

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_DEFAULT_CACHES = (32 << 10, 512 << 10, 8 << 20)


@cache
def machine() -> str:
    """Name of the instruction set, as the operating system gives it: ``x86_64``, ``arm64``."""
    return platform.machine().lower().replace("amd64", "x86_64")


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def threads() -> int:
    """Workers that run kernels: DOVETILE_THREADS, or one for each usable core."""
    return environment.DOVETILE_THREADS.value or usable_cores()


@cache
def features() -> frozenset[str]:
    """The processor's features, in the kernel's words: ``avx2``, ``fma``, ``asimd``..."""
    if sys.platform == "darwin":
        return frozenset({"asimd", "fphp", "asimdhp"} if machine() == "arm64" else {"sse2"})
    fields = _processor()
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


@cache
def _processor() -> dict[str, str]:
    """What Linux tells of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    first = text.strip().split("\n\n")[0]
    lines = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def vendor() -> str:
    """Who made the processor, as it says itself; empty where it does not."""
    return _processor().get("vendor_id", "")


@cache
def model() -> str:
    """The processor's model in words, where the system tells it."""
    fields = _processor()
    return fields.get("model name") or fields.get("CPU part") or machine()


@cache
def fingerprint() -> str:
    """Short text that differs between processors for which code may differ."""
    content = "\n".join([machine(), model(), *sorted(features())])
    return f"{machine()}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


@cache
def cache_bytes() -> tuple[int, ...]:
    """Sizes of the data caches, the innermost first."""
    sizes: dict[int, int] = {}
    try:
        for index in _CACHES.glob("index*"):
            if (index / "type").read_text().strip() == "Instruction":
                continue
            text = (index / "size").read_text().strip()
            unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:])
            size = int(text[:-1]) * unit if unit else int(text)
            sizes[int((index / "level").read_text())] = size
    except (OSError, ValueError):
        sizes = {}
    return tuple(sizes[level] for level in sorted(sizes)) or _DEFAULT_CACHES


def memory_bytes() -> int:
    """Main memory of this machine, or what its container may use of it."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError) as error:
        raise OutOfMemoryError(f"[memory] the system does not tell its size: {error}") from error
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(file).read_text()))
        except (OSError, ValueError):
            continue
    return total


def _vectors() -> tuple[int, int]:
    """(bytes of the widest vector register, number of such registers)."""
    known = features()
    if "avx512f" in known:
        return 64, 32
    if "avx2" in known:
        return 32, 16
    if machine() in ("aarch64", "arm64"):
        return 16, 32
    return 16, 16


@cache
def capabilities_for(worker_count: int) -> Capabilities:
    """What the core must know of this processor, run by so many workers."""
    vector_bytes, vector_registers = _vectors()
    known = features()
    fused = bool(known & {"fma", "asimd"})
    native = {"SQRT", "TRUNC"} | ({"MULACC"} if fused else set())
    arithmetic = Capabilities(architecture="any").arithmetic_dtypes
    if "avx512_fp16" in known or "asimdhp" in known:
        arithmetic |= {"float16"}
    # Two vector units per core, each a multiply-add per cycle, at a plain 2.5 GHz.
    per_core = 2.5e9 * 2 * 2 * (vector_bytes // 4)
    caches = cache_bytes()
    return Capabilities(
        architecture=fingerprint(),
        arithmetic_dtypes=frozenset(arithmetic),
        native_ops=frozenset(native),
        parallel_axes=("THREAD",),
        threads=worker_count,
        vector_bytes=vector_bytes,
        vector_registers=vector_registers,
        cache_bytes=caches,
        line_bytes=128 if sys.platform == "darwin" and machine() == "arm64" else 64,
        local_bytes=LOCAL_BYTES,
        bytes_per_second=min(8e9 * worker_count, 2e11),
        operations_per_second=per_core * worker_count,
        launch_seconds=2e-7 if worker_count == 1 else 3e-6,
        shared_work=int(per_core * _SHARING / _PLAIN_LOOPS),
        host_visible=True,
        streaming_stores=True,
    )


# Seconds that one worker must be busy for two to be faster, measured between the launches of a
# list, where the other is awake (after a rest it takes ten times as long, but once). And how much
# less than the peak of multiply-adds plain loops do, their accesses counted.
_SHARING = 5e-6
_PLAIN_LOOPS = 8

LOCAL_BYTES = 64 << 20
"""Scratch of each worker. Only address space: pages come when a kernel first touches them."""


def capabilities() -> Capabilities:
    """What the core must know of this processor."""
    return capabilities_for(threads())


def unsupported() -> str | None:
    """Why the backend cannot run here, None where it can."""
    if os.name != "posix":
        return f"{sys.platform} is not supported yet; Linux and macOS are"
    if machine() not in ("x86_64", "aarch64", "arm64"):
        return f"no code for {machine()} machines yet; there is for x86-64 and AArch64"
    return None
