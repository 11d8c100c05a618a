"""What plugins hand to the core: frozen values that describe, and callables that act later.

Making a spec must cost nothing: no driver is loaded and no device is touched until the core
calls `probe`, `open` or a factory. Everything the core knows of a target stands in
:class:`Capabilities`; no file of the core names a device.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from dovetile.dtypes import SMALL_FLOATS, TENSOR_DTYPES
from dovetile.errors import PluginError
from dovetile.plugins.matrix_unit import MatrixUnit

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    import numpy

    from dovetile.ir import UOp
    from dovetile.runtime import Compiler, Device, Renderer

PLUGIN_API = (0, 1)
"""Version of the plugin API, (major, minor).

A plugin states the version it was written for as ``DOVETILE_PLUGIN_API`` in its module. Another
major, or a newer minor than the core's, is refused. Minors only add; while the major is 0, a
minor may also change meanings, and then an older minor is refused too.
"""

STANDARD_DTYPES = frozenset(dtype.name for dtype in TENSOR_DTYPES)
WIDE_DTYPES = STANDARD_DTYPES - {dtype.name for dtype in SMALL_FLOATS}
PARALLEL_AXES = ("THREAD", "GROUP", "LOCAL")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PluginError(message)


# -- Capabilities ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """All that the core knows of a target. Hashable; part of schedule and cache keys.

    The defaults describe a plain scalar machine with one thread, so a minimal backend says little.
    """

    architecture: str
    """The exact target (instruction set and model), part of every cache key."""
    dtypes: frozenset[str] = STANDARD_DTYPES
    """Names of the dtypes that can be stored and loaded."""
    arithmetic_dtypes: frozenset[str] = WIDE_DTYPES
    """Names of those it computes in; the core computes the others in float32."""
    native_ops: frozenset[str] = frozenset()
    """Op names beyond the base set that it renders natively: SQRT, MULACC, EXP2, LOG2, SIN...; of
    one type only where the type's name follows: EXP2_float32."""
    parallel_axes: tuple[str, ...] = ()
    """Kinds of axes the hardware runs in parallel, outermost first: THREAD, or GROUP and LOCAL."""
    threads: int = 1
    """Workers that run the parts of a THREAD axis, or workgroups, at the same time."""
    group_threads: int = 1
    """Threads that a workgroup may have, a power of two."""
    warp: int = 1
    """Threads with neighbouring indices that run together and exchange values by SHUFFLE."""
    vector_bytes: int = 0
    """Width of the widest vector register in bytes; 0 where there is only scalar arithmetic."""
    vector_registers: int = 16
    """Number of registers that kernels may fill with accumulators and operands."""
    cache_bytes: tuple[int, ...] = ()
    """Size in bytes of each cache level as one worker sees it; the last may be shared by all."""
    line_bytes: int = 64
    """Size of a cache line, or of a memory transaction, in bytes."""
    local_bytes: int = 0
    """Bytes that LOCAL buffers may take per worker or workgroup."""
    bytes_per_second: float = 1e10
    """Bandwidth of the main memory with all workers busy (cost model)."""
    operations_per_second: float = 1e9
    """float32 operations with all workers busy, a multiply-add counting as two (cost model)."""
    launch_seconds: float = 1e-6
    """Fixed cost of one launch (cost model)."""
    shared_work: int = 100_000
    """Operations and accesses of plain loops that keep one worker as busy as it takes to hand over
    a part to another and to await it: less is not worth sharing."""
    host_visible: bool = False
    """Whether the host can address the device's memory, so that no copy is needed."""
    supports_barrier: bool = False
    """Whether the workers of a workgroup can wait for each other."""
    asynchronous_copies: bool = False
    """Whether LOCAL memory can be filled by asynchronous stores of 4, 8 or 16 bytes."""
    early_launches: bool = False
    """Whether a launch of a captured list may begin before the one ahead of it is complete, and
    then awaits it itself (BARRIER "launch")."""
    bulk_copies: bool = False
    """Whether one thread can begin a copy of a whole box of memory into LOCAL memory (FETCH)."""
    matrix_units: tuple[MatrixUnit, ...] = ()
    """Instructions that multiply small matrices; of equal ones the first is taken."""
    streaming_stores: bool = False
    """Whether whole vectors can be stored past the caches, without reading their lines first."""

    def __post_init__(self) -> None:
        def check(condition: bool, field: str, right: str) -> None:
            _require(condition, f"[Capabilities] {field}={getattr(self, field)!r}; {right}")

        check(bool(self.architecture), "architecture", "it must name the target")
        for field in ("dtypes", "arithmetic_dtypes", "native_ops"):
            check(isinstance(getattr(self, field), frozenset), field, "it must be a frozenset")
        for field in ("parallel_axes", "cache_bytes", "matrix_units"):
            check(isinstance(getattr(self, field), tuple), field, "it must be a tuple")
        check(
            self.arithmetic_dtypes <= self.dtypes,
            "arithmetic_dtypes",
            f"{sorted(self.arithmetic_dtypes - self.dtypes)} must also be in dtypes",
        )
        check(
            set(self.parallel_axes) <= set(PARALLEL_AXES),
            "parallel_axes",
            f"its members must be of {PARALLEL_AXES}",
        )
        check(self.threads >= 1, "threads", "it must be at least 1")
        amounts = "vector_bytes vector_registers local_bytes launch_seconds shared_work"
        for field in amounts.split():
            check(getattr(self, field) >= 0, field, "it must not be negative")
        check(
            self.vector_bytes & (self.vector_bytes - 1) == 0,
            "vector_bytes",
            "it must be 0 or a power of two",
        )
        check(all(size > 0 for size in self.cache_bytes), "cache_bytes", "sizes must be positive")
        for field in ("line_bytes", "bytes_per_second", "operations_per_second"):
            check(getattr(self, field) > 0, field, "it must be positive")

    def native(self, op: str, dtype: str) -> bool:
        """Whether it renders an operation beyond the base set on a type natively."""
        return op in self.native_ops or f"{op}_{dtype}" in self.native_ops


# -- Devices and compilers -------------------------------------------------------------------


@dataclass(frozen=True)
class ProbeResult:
    """How many devices of a kind this machine has; where none, the reason in words.

    Where there are some, `reason` may say how they are reached, for `dovetile doctor`.
    """

    count: int
    reason: str | None = None

    def __post_init__(self) -> None:
        _require(
            self.count > 0 or bool(self.reason),
            f"[ProbeResult] count={self.count} without a reason; say why there is no device",
        )


@dataclass(frozen=True)
class CompilerSpec:
    """A way to make programs for a device: a renderer to source, and a compiler of that source."""

    name: str
    """Upper case, as in ``DEV=DEVICE:NAME``."""
    device: str
    """Name of the device it makes programs for; may be another plugin's."""
    language: str
    """The source language between the two: ``c``, ``llvm-ir``, ..."""
    compiler: Callable[[Capabilities], Compiler]
    """Makes the compiler for a target."""
    renderer: Callable[[Capabilities], Renderer] | None = None
    """Makes the renderer for a target; None: the registered RendererSpec of `language`."""
    available: Callable[[], str | None] = lambda: None
    """None where it can be used here, else the reason and what to install. Cheap."""

    def __post_init__(self) -> None:
        _check_name("CompilerSpec", self.name)
        _check_name("CompilerSpec", self.device)


@dataclass(frozen=True)
class Selection:
    """Which device is to be opened and how: what ``DEV`` and ``device=`` come down to."""

    name: str
    """The device's full name in this process, for example ``ABACUS:1``."""
    index: int
    """Which of the `ProbeResult.count` devices."""
    compiler: CompilerSpec
    """The compiler chosen for it, available, its renderer filled in."""
    architecture: str | None = None
    """The architecture that the user asked for, one of `DeviceSpec.architectures`."""


@dataclass(frozen=True)
class DeviceSpec:
    """A kind of device that a plugin brings."""

    name: str
    """Upper case, as in ``DEV=NAME``."""
    probe: Callable[[], ProbeResult]
    """Counts the devices of this machine: cheap, makes no context, may load a driver library."""
    open: Callable[[Selection], Device]
    """Makes the Device. Called once per name; raises DeviceError where it cannot."""
    compilers: tuple[CompilerSpec, ...]
    """In order of preference; the first available one is taken unless the user names another."""
    aliases: tuple[str, ...] = ()
    """Other names, upper case."""
    priority: int = 0
    """Where the user names no device, the usable one of highest priority is taken."""
    architectures: tuple[str, ...] = ()
    """Architectures that ``DEV=NAME:COMPILER:ARCHITECTURE`` may force."""

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            _check_name("DeviceSpec", name)
        for compiler in self.compilers:
            _require(
                compiler.device == self.name,
                f"[DeviceSpec] compiler {compiler.name} is for device {compiler.device}; "
                f"compilers of {self.name} must say {self.name}",
            )
        _check_unique(f"compilers of {self.name}", [c.name for c in self.compilers])


def _check_name(owner: str, name: str) -> None:
    _require(
        re.fullmatch(r"[A-Z][A-Z0-9_]*", name) is not None,
        f"[{owner}] name {name!r}; names of devices and compilers are upper-case letters, digits "
        "and underscores, and begin with a letter",
    )


def _check_unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    _require(not twice, f"[DeviceSpec] {what}: {', '.join(twice)} occurs twice")


# -- Everything else a plugin may bring ------------------------------------------------------


@dataclass(frozen=True)
class RendererSpec:
    """A renderer for all compilers of a language that bring none of their own."""

    language: str
    renderer: Callable[[Capabilities], Renderer]


STAGES = ("tensor", "schedule", "optimize", "lower")


@dataclass(frozen=True)
class PassSpec:
    """A rewrite pass, run at the end of a stage for the targets it accepts.

    Order within a stage follows `before` and `after`, then the name, never that of installation.
    """

    name: str
    stage: str
    """The stage it belongs to, one of `STAGES`."""
    load: Callable[[], Callable[[UOp, Capabilities], UOp]]
    """Returns the pass; called at its first use."""
    accepts: Callable[[Capabilities], bool] = lambda capabilities: True
    """Whether the pass is wanted for a target."""
    before: tuple[str, ...] = ()
    """Names of passes of the same stage that must come later."""
    after: tuple[str, ...] = ()
    """Names of passes of the same stage that must come earlier."""

    def __post_init__(self) -> None:
        _require(
            self.stage in STAGES,
            f"[PassSpec] {self.name}: stage {self.stage!r}; it must be one of {', '.join(STAGES)}",
        )


@dataclass(frozen=True)
class DTypeSpec:
    """An element type beyond the standard ones."""

    name: str
    itemsize: int
    """Bytes per element."""
    kind: str
    """``u``, ``i`` or ``f``."""
    host: Callable[[], numpy.dtype]
    """The NumPy (or ml_dtypes) dtype with the same bytes."""
    promotes_to: tuple[str, ...] = ("float32",)
    """The nearest dtypes that hold every value of this one."""

    def __post_init__(self) -> None:
        _require(
            self.kind in ("u", "i", "f") and self.itemsize > 0,
            f"[DTypeSpec] {self.name}: kind {self.kind!r} of {self.itemsize} bytes; the kind must "
            "be u, i or f and the size positive",
        )


@dataclass(frozen=True)
class ImporterSpec:
    """A reader of a file format: weights (a dict of Tensors) or a callable model."""

    name: str
    suffixes: tuple[str, ...]
    """With the dot, lower case: ``(".onnx",)``."""
    load: Callable[[Path], Any]
    magic: bytes = b""
    """First bytes of such a file, where the format has them."""


@dataclass(frozen=True)
class CommandSpec:
    """A subcommand of ``dovetile``."""

    name: str
    summary: str
    run: Callable[[argparse.Namespace], int]
    """Does the work; returns the exit status."""
    configure: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    """Adds the command's arguments."""

    def __post_init__(self) -> None:
        _require(
            re.fullmatch(r"[a-z][a-z0-9-]*", self.name) is not None,
            f"[CommandSpec] name {self.name!r}; it must be lower-case letters, digits and hyphens",
        )


@dataclass(frozen=True)
class CollectiveSpec:
    """A transport for collective operations (all-reduce, ...) between devices."""

    name: str
    devices: tuple[str, ...]
    """Names of the devices it connects."""
    open: Callable[[tuple[Device, ...]], Any]
    """Makes the communicator over these devices."""
    priority: int = 0
    available: Callable[[], str | None] = lambda: None


Spec = (
    DeviceSpec
    | CompilerSpec
    | RendererSpec
    | PassSpec
    | DTypeSpec
    | ImporterSpec
    | CommandSpec
    | CollectiveSpec
)


def describe(capabilities: Capabilities) -> dict[str, str]:
    """The capabilities as readable text, field by field (for `dovetile doctor`)."""

    def text(value: object) -> str:
        if isinstance(value, frozenset):
            return ", ".join(sorted(value)) or "-"
        if isinstance(value, tuple):
            return ", ".join(map(str, value)) or "-"
        return str(value)

    return {field.name: text(getattr(capabilities, field.name)) for field in fields(capabilities)}
