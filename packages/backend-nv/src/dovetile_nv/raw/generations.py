"""What differs between generations of GPUs: classes of objects and versions of descriptors.

Hopper is tested on hardware. The others follow the same public headers but have not been run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dovetile.errors import DeviceError


@dataclass(frozen=True)
class Generation:
    """One generation."""

    name: str
    compute_class: int
    copy_class: int
    channel_class: int
    doorbell_class: int
    descriptor: tuple[int, int]
    """Version of the launch descriptor (QMD)."""
    shared_kilobytes: tuple[int, ...]
    """How much of an SM's first-level memory can be shared memory."""
    tested: bool = False


HOPPER = Generation(
    "Hopper",
    compute_class=0xCBC0,
    copy_class=0xC8B5,
    channel_class=0xC86F,
    doorbell_class=0xC661,
    descriptor=(4, 0),
    shared_kilobytes=(0, 8, 16, 32, 64, 100, 132, 164, 196, 228),
    tested=True,
)
AMPERE_A100 = Generation(
    "Ampere (GA100)",
    compute_class=0xC6C0,
    copy_class=0xC6B5,
    channel_class=0xC56F,
    doorbell_class=0xC561,
    descriptor=(3, 0),
    shared_kilobytes=(0, 8, 16, 32, 64, 100, 132, 164),
)
AMPERE = Generation(
    "Ampere",
    compute_class=0xC7C0,
    copy_class=0xC7B5,
    channel_class=0xC56F,
    doorbell_class=0xC561,
    descriptor=(3, 0),
    shared_kilobytes=(0, 8, 16, 32, 64, 100),
)
ADA = Generation(
    "Ada",
    compute_class=0xC9C0,
    copy_class=0xC7B5,
    channel_class=0xC56F,
    doorbell_class=0xC561,
    descriptor=(3, 0),
    shared_kilobytes=(0, 8, 16, 32, 64, 100),
)
BLACKWELL = Generation(
    "Blackwell",
    compute_class=0xCDC0,
    copy_class=0xC9B5,
    channel_class=0xC96F,
    doorbell_class=0xC661,
    descriptor=(5, 0),
    shared_kilobytes=(0, 8, 16, 32, 64, 100, 132, 164, 196, 228),
)
BLACKWELL_RTX = Generation(
    "Blackwell (GB20x)",
    compute_class=0xCEC0,
    copy_class=0xCAB5,
    channel_class=0xCA6F,
    doorbell_class=0xC661,
    descriptor=(5, 0),
    shared_kilobytes=(0, 8, 16, 32, 64, 100),
)

GENERATIONS = (HOPPER, AMPERE_A100, AMPERE, ADA, BLACKWELL, BLACKWELL_RTX)


def of_classes(classes: Collection[int]) -> Generation:
    """The generation of a GPU by its class list. Raises DeviceError where it is not known."""
    for generation in GENERATIONS:
        if generation.compute_class in classes:
            return generation
    names = ", ".join(g.name for g in GENERATIONS)
    raise DeviceError(f"[driver] a GPU of no generation that this package knows ({names})")
