"""What each architecture of NVIDIA's GPUs can do, as a table, and the core's Capabilities of it.

Limits of a multiprocessor are those of the CUDA C++ Programming Guide (technical specifications per
compute capability). What differs between cards of one architecture is that of the card named here;
for the card at hand the runtime puts in what the driver tells, with `dataclasses.replace`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dovetile.errors import DeviceError
from dovetile.plugins.specs import WIDE_DTYPES, Capabilities
from dovetile_nv.matrix_units import units

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Architecture:
    """One row of the table."""

    name: str
    """As compilers are told it; a final ``a`` brings instructions that only this one has."""
    local_bytes: int
    """Shared memory that a workgroup may take."""
    first_cache_bytes: int
    """First-level cache and shared memory of a multiprocessor together."""
    lanes: int
    """float32 multiply-adds that a multiprocessor begins in a cycle."""
    card: str
    """The card that the numbers below belong to."""
    multiprocessors: int
    second_cache_bytes: int
    clock: float
    """Hertz that are sustained with all lanes busy."""
    bytes_per_second: float
    """Measured where the card was at hand (H200), else nine tenths of what its data sheet says."""

    @property
    def number(self) -> int:
        """90 of sm_90a."""
        return int("".join(c for c in self.name if c.isdigit()))


ARCHITECTURES = {
    row.name: row
    for row in (
        Architecture("sm_75", 64 * KIB, 96 * KIB, 64, "T4", 40, 4 * MIB, 1.2e9, 0.29e12),
        Architecture("sm_80", 163 * KIB, 192 * KIB, 64, "A100", 108, 40 * MIB, 1.4e9, 1.8e12),
        Architecture("sm_86", 99 * KIB, 128 * KIB, 128, "RTX 3090", 82, 6 * MIB, 1.7e9, 0.84e12),
        Architecture("sm_87", 163 * KIB, 192 * KIB, 128, "Orin", 16, 4 * MIB, 1.3e9, 0.18e12),
        Architecture("sm_89", 99 * KIB, 128 * KIB, 128, "RTX 4090", 128, 72 * MIB, 2.5e9, 0.9e12),
        Architecture("sm_90a", 227 * KIB, 256 * KIB, 128, "H200", 132, 50 * MIB, 1.75e9, 4.2e12),
        Architecture("sm_100a", 227 * KIB, 256 * KIB, 128, "B200", 148, 126 * MIB, 1.8e9, 7.2e12),
        Architecture("sm_103a", 227 * KIB, 256 * KIB, 128, "B300", 148, 126 * MIB, 1.8e9, 7.2e12),
        Architecture("sm_120a", 99 * KIB, 128 * KIB, 128, "RTX 5090", 170, 96 * MIB, 2.4e9, 1.6e12),
        Architecture("sm_121a", 99 * KIB, 128 * KIB, 128, "GB10", 48, 24 * MIB, 2.4e9, 0.25e12),
    )
}

WARP = 32
"""Threads that run in step, on every architecture."""
ACCESS_BYTES = 16
"""The widest access of one thread to memory."""
REGISTER_BYTES = 512
"""Of a thread's 255 registers of 4 bytes, what accumulators and operands may fill: the others hold
addresses, and with 128 a multiprocessor still has room for 16 warps."""

_NATIVE = frozenset(
    "MULACC SQRT_float32 SQRT_float64 TRUNC_float32 TRUNC_float64 EXP2_float32 CAST_float16".split()
)


def architecture_of(name: str) -> Architecture:
    """The row of an architecture. Raises DeviceError where there is none."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise DeviceError(
            f"[nv] architecture {name!r}; known are {', '.join(ARCHITECTURES)}"
        ) from None


def capabilities_of(architecture: Architecture) -> Capabilities:
    """The row in the core's words."""
    since_80 = {"CAST_bfloat16"} if architecture.number >= 80 else set()
    return Capabilities(
        architecture=architecture.name,
        # One by one, small floats are computed no faster than float32.
        arithmetic_dtypes=WIDE_DTYPES,
        native_ops=_NATIVE | since_80,
        parallel_axes=("GROUP", "LOCAL"),
        threads=architecture.multiprocessors,
        group_threads=1024,
        warp=WARP,
        vector_bytes=ACCESS_BYTES,
        vector_registers=REGISTER_BYTES // ACCESS_BYTES,
        cache_bytes=(architecture.first_cache_bytes, architecture.second_cache_bytes),
        line_bytes=128,
        local_bytes=architecture.local_bytes,
        bytes_per_second=architecture.bytes_per_second,
        operations_per_second=(
            2.0 * architecture.lanes * architecture.multiprocessors * architecture.clock
        ),
        launch_seconds=2e-6,
        supports_barrier=True,
        asynchronous_copies=architecture.number >= 80,
        early_launches=architecture.number >= 90,
        bulk_copies=architecture.number == 90,
        matrix_units=units(architecture.number),
    )
