"""From kernel sources to loaded programs, each distinct source compiled once.

Programs are found first among those the device has loaded, then in the cache on disk, under a
key of everything that decides the code: the compiler's fingerprint, the kernel's name and source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from dovetile import cache
from dovetile.errors import CompileError, DovetileError
from dovetile.profiling import stage
from dovetile.runtime.counting import total

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


_NAMESPACE = "kernel"
Loaded = TypeVar("Loaded")


def binary_keys(compiler: Compiler, sources: Sequence[str]) -> list[str]:
    """The key of each source's binary in the cache on disk."""
    fingerprint = compiler.fingerprint().encode()
    return [
        hashlib.sha256(b"%s\0%s" % (fingerprint, source.encode())).hexdigest() for source in sources
    ]


def compile_binaries(compiler: Compiler, sources: Sequence[str]) -> list[bytes]:
    """The binary of each source, from the cache on disk or the compiler. Raises CompileError."""
    keys = binary_keys(compiler, sources)
    found = _binaries(compiler, dict(zip(keys, sources)))
    return [found[key] for key in keys]


def load_compiled(compiler: Compiler, source: str, load: Callable[[bytes], Loaded]) -> Loaded:
    """What `load` makes of the binary of a source.

    A binary from the disk that `load` raises CompileError for is compiled anew.
    """
    (key,) = binary_keys(compiler, [source])
    return _loaded(compiler, key, source, _binaries(compiler, {key: source})[key], load)


def _loaded(
    compiler: Compiler, key: str, source: str, binary: bytes, load: Callable[[bytes], Loaded]
) -> Loaded:
    try:
        with stage("load"):
            return load(binary)
    except CompileError:
        (fresh,) = _compile(compiler, [source])
        if fresh == binary:
            raise
        cache.put(_NAMESPACE, key, {"compiler": compiler.fingerprint()}, fresh)
        total.compiled += 1
        return load(fresh)


def _binaries(compiler: Compiler, sources: dict[str, str]) -> dict[str, bytes]:
    """Binaries by key, of sources by key."""
    found: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    for key, source in sources.items():
        entry = cache.get(_NAMESPACE, key)
        if entry is None:
            missing[key] = source
        else:
            found[key] = entry[1]
    total.from_cache += len(found)
    if missing:
        header = {"compiler": compiler.fingerprint()}
        for key, binary in zip(missing, _compile(compiler, list(missing.values()))):
            cache.put(_NAMESPACE, key, header, binary)
            found[key] = binary
        total.compiled += len(missing)
    return found


def _compile(compiler: Compiler, sources: list[str]) -> list[bytes]:
    """What the compiler makes of the sources; whatever else it raises becomes a CompileError."""
    try:
        with stage("compile"):
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
    compiler = device.compiler
    keys = binary_keys(compiler, [source for _, source in kernels])
    # One binary may hold several kernels: programs have the name in their key, binaries not.
    programs = [f"{key}/{name}" for key, (name, _) in zip(keys, kernels)]
    new = [i for i, program in enumerate(programs) if program not in device.programs]
    binaries = _binaries(compiler, {keys[i]: kernels[i][1] for i in new})
    with device.programs_lock:
        for i in new:
            if programs[i] not in device.programs:
                name, source = kernels[i]
                device.programs[programs[i]] = _loaded(
                    compiler, keys[i], source, binaries[keys[i]], partial(device.load, name=name)
                )
    return [device.programs[program] for program in programs]


def load_programs(kernels: Sequence[tuple[Device, str, str]]) -> list[Program] | None:
    """Programs from the kernel cache alone, given (device, name, key of the compiled code) of each;
    None where one of them is not there."""
    programs = []
    for device, name, binary in kernels:
        key = f"{binary}/{name}"
        program = device.programs.get(key)
        if program is None:
            entry = cache.get(_NAMESPACE, binary)
            if entry is None:
                return None
            try:
                with stage("load"):
                    fresh = device.load(entry[1], name)
            except CompileError:  # damaged: as good as not there
                return None
            total.from_cache += 1
            with device.programs_lock:
                program = device.programs.setdefault(key, fresh)
        programs.append(program)
    return programs
