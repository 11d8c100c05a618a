"""Which of the two ways to the GPU is taken, and why."""

from __future__ import annotations

import sys
from functools import cache

from dovetile import environment
from dovetile.errors import DeviceError, DovetileError
from dovetile_nv.interface import Interface


def _interface(text: str) -> str:
    name = text.upper()
    if name not in ("AUTO", "RAW", "LIBCUDA"):
        raise ValueError(text)
    return name


NV_INTERFACE: environment.Variable[str] = environment.Variable(
    "NV_INTERFACE",
    default=lambda: "AUTO",
    parse=_interface,
    valid="RAW (the kernel driver's ioctls), LIBCUDA, or AUTO (RAW where it works, else LIBCUDA)",
    summary="How the NVIDIA device reaches the GPU.",
)


@cache
def raw_problem() -> str | None:
    """None where the raw queue can be used, else why not. Opens the driver, but no GPU."""
    if not sys.platform.startswith("linux"):
        return "it needs Linux"
    from dovetile_nv.raw import probe

    return probe.problem()


@cache
def libcuda_problem() -> str | None:
    """None where libcuda can be used, else why not."""
    from dovetile_nv.libcuda import library

    try:
        return None if library.device_count() else "libcuda finds no GPU"
    except DovetileError as error:
        return str(error)


def choose() -> tuple[str | None, str]:
    """(the interface to take or None, why)."""
    asked = NV_INTERFACE.value
    problems = {}
    for name, problem_of in (("RAW", raw_problem), ("LIBCUDA", libcuda_problem)):
        if asked not in ("AUTO", name):
            continue
        problem = problem_of()
        if problem is None:
            why = "as NV_INTERFACE says" if asked == name else "its probe passed"
            if problems:
                why = f"RAW cannot be used: {problems['RAW']}"
            return name, why
        problems[name] = problem
    return None, "; ".join(f"{name}: {problem}" for name, problem in problems.items())


def count() -> int:
    """How many GPUs the interface chosen has."""
    name, _ = choose()
    if name == "RAW":
        from dovetile_nv.raw import card

        return len(card.process().client.cards())
    if name == "LIBCUDA":
        from dovetile_nv.libcuda import library

        return library.device_count()
    return 0


def open_interface(index: int) -> Interface:
    """Opens a GPU. Raises DeviceError where it cannot be used."""
    name, why = choose()
    if name is None:
        raise DeviceError(f"[nv] no GPU can be used; {why}")
    if name == "RAW":
        try:
            return _open_raw(index)
        except DovetileError as error:
            # What the probe cannot see: a driver that refuses one of the calls.
            if NV_INTERFACE.value == "RAW" or libcuda_problem() is not None:
                raise
            if environment.DEBUG.value >= 1:
                print(f"dovetile: passing over the raw queue: {error}", file=sys.stderr)
    from dovetile_nv.libcuda.interface import CudaInterface

    return CudaInterface(index)


def _open_raw(index: int) -> Interface:
    from dovetile_nv.raw import card
    from dovetile_nv.raw.interface import RawInterface

    return RawInterface(card.process(), index)
