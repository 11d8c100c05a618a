"""From kernel sources to loaded programs, each distinct source compiled once.

Programs are found first among those the device has loaded, then in the cache on disk, under a
key of everything that decides the code: the compiler's fingerprint, the kernel's name and source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dovetile import cache
from dovetile.errors import CompileError, DovetileError

if TYPE_CHECKING:
    from dovetile.lower.linear import LinearKernel
    from dovetile.runtime.device import Device
    from dovetile.runtime.program import Program


class Renderer(Protocol):
    """Writes a linear program as source text. Made by a plugin for one target."""

    language: str
    """``c``, ``llvm-ir``, ..."""

    def render(self, kernel: LinearKernel) -> str:
        """The source that defines the kernel."""
        ...


class Compiler(Protocol):
    """Compiles source text to a binary that its device can load."""

    language: str

    def available(self) -> str | None:
        """None where it can be used, else the reason and what to install."""
        ...

    def fingerprint(self) -> str:
        """Differs where the same source may give another binary. Cheap."""
        ...

    def compile(self, source: str) -> bytes:
        """The binary of a source. Raises CompileError with the compiler's message."""
        ...

    def compile_many(self, sources: Sequence[str]) -> list[bytes]:
        """The binaries of several sources, in order, made in parallel where that pays."""
        ...


@dataclass
class Counts:
    """How the kernels of this process came to be."""

    compiled: int = 0
    from_cache: int = 0


compiled_counts = Counts()
_NAMESPACE = "kernel"


def binary_key(compiler: Compiler, source: str) -> str:
    """The key of a compiled source in the cache on disk."""
    content = f"{compiler.fingerprint()}\0{source}"
    return hashlib.sha256(content.encode()).hexdigest()


def compile_binaries(compiler: Compiler, sources: Sequence[str]) -> list[bytes]:
    """The binary of each source, from the cache on disk or the compiler."""
    keys = [binary_key(compiler, source) for source in sources]
    found: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    for key, source in zip(keys, sources):
        if key in found or key in missing:
            continue
        entry = cache.get(_NAMESPACE, key)
        if entry is None:
            missing[key] = source
        else:
            found[key] = entry[1]
            compiled_counts.from_cache += 1
    if missing:
        binaries = _compile(compiler, list(missing.values()))
        compiled_counts.compiled += len(missing)
        for key, binary in zip(missing, binaries):
            cache.put(_NAMESPACE, key, {"compiler": compiler.fingerprint()}, binary)
            found[key] = binary
    return [found[key] for key in keys]


def _compile(compiler: Compiler, sources: list[str]) -> list[bytes]:
    """What the compiler makes of the sources; whatever else it raises becomes a CompileError."""
    try:
        return compiler.compile_many(sources)
    except DovetileError:
        raise
    except Exception as error:
        raise CompileError(
            f"[compile] {type(compiler).__name__} crashed with {type(error).__name__}: {error}; "
            "DEV=DEVICE:COMPILER takes another, `dovetile doctor` tells which of them work"
        ) from error


def compile_programs(device: Device, kernels: Sequence[tuple[str, str]]) -> list[Program]:
    """The program of each kernel, compiled where need be and loaded on the device.

    Args:
        kernels: (name, source) of each; the source defines a kernel of that name.

    Raises CompileError.
    """
    keys = [f"{name}\0{binary_key(device.compiler, source)}" for name, source in kernels]
    wanted = {key: kernel for key, kernel in zip(keys, kernels) if key not in device.programs}
    binaries = compile_binaries(device.compiler, [source for _, source in wanted.values()])
    with device.programs_lock:
        for (key, (name, _)), binary in zip(wanted.items(), binaries):
            if key not in device.programs:
                device.programs[key] = device.load(binary, name)
    return [device.programs[key] for key in keys]
