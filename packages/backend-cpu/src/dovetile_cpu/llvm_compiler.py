"""The LLVM compiler: LLVM IR text to an object file, in process, through llvmlite.

llvmlite is imported only when something must be compiled. A process that finds all its kernels
in the cache never pays for it (its import takes longer than the whole rest of the start).
"""

from __future__ import annotations

import ctypes
import threading
import types
from collections.abc import Sequence
from functools import cache
from importlib import metadata, util
from typing import Any

from dovetile.errors import CompileError
from dovetile_cpu import host

# Object files are ELF whatever the operating system: our own loader reads them.
_TRIPLES = {
    "x86_64": "x86_64-unknown-none-elf",
    "aarch64": "aarch64-unknown-none-elf",
    "arm64": "aarch64-unknown-none-elf",
}


def available() -> str | None:
    """None where llvmlite is installed, else what to install."""
    if util.find_spec("llvmlite") is None:
        return "llvmlite is not installed; run: pip install llvmlite"
    if host.machine() not in _TRIPLES:
        return f"no code for {host.machine()} machines yet; there is for {', '.join(_TRIPLES)}"
    return None


class LlvmCompiler:
    """Compiles LLVM IR text for this machine's processor. Thread-safe."""

    language = "llvm-ir"

    def available(self) -> str | None:
        """None where it can be used, else what to install."""
        return available()

    def fingerprint(self) -> str:
        """Changes whenever the same source may give other code. Cheap: does not load LLVM."""
        return _fingerprint()

    def compile(self, source: str) -> bytes:
        """The object file of a module. Raises CompileError with LLVM's message."""
        with _lock:
            machine = _idle.pop() if _idle else _Machine()
        try:
            return machine.compile(source)
        finally:
            _idle.append(machine)

    def compile_many(self, sources: Sequence[str]) -> list[bytes]:
        """The object file of each module, in order, as many at a time as there are threads."""
        workers = min(host.threads(), len(sources))
        if workers < 2:
            return [self.compile(source) for source in sources]
        from concurrent.futures import ThreadPoolExecutor  # slow to import, and rarely needed

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(self.compile, sources))


_PIPELINE = "1"  # number of the pass pipeline below; part of the fingerprint


@cache
def _fingerprint() -> str:
    return f"llvmlite-{metadata.version('llvmlite')}/{host.fingerprint()}/{_PIPELINE}"


_lock = threading.Lock()
_idle: list[_Machine] = []  # target machines that are not in use; each serves one thread at a time


class _Machine:
    """LLVM, set up for this processor. Serves one thread at a time."""

    def __init__(self) -> None:
        from llvmlite import binding

        self.binding = binding
        # Needed before llvmlite 0.45 (LLVM 20), an error since.
        if binding.llvm_version_info[0] < 20:
            binding.initialize()
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        target = binding.Target.from_triple(_TRIPLES[host.machine()])
        features = binding.get_host_cpu_features().flatten()
        if host.machine() == "arm64":
            features += ",+reserve-x18"  # macOS keeps this register for itself
        self.target = target.create_target_machine(
            cpu=binding.get_host_cpu_name(),
            features=features,
            opt=2,
            reloc="pic",
            codemodel="small",
        )
        # On the line of the source's first words, so that messages count its lines.
        self.head = (
            f'target datalayout = "{self.target.target_data}" '
            f'target triple = "{self.target.triple}" '
        )
        options = binding.create_pipeline_tuning_options(speed_level=1)
        self.builder = binding.create_pass_builder(self.target, options)
        self.passes = self._passes()
        self.library = _library()

    def _passes(self) -> Any:
        """Cheap clean-up: kernels arrive vectorised, unrolled and with their invariants hoisted.

        The pipelines O1 to O3 take as long as code generation does, and change next to nothing.
        """
        manager = self.binding.create_new_module_pass_manager()
        manager.add_sroa_pass()
        manager.add_instruction_combine_pass()
        manager.add_simplify_cfg_pass()
        return manager

    def compile(self, source: str) -> bytes:
        library = self.library
        context = library.LLVMPY_ContextCreate()
        module = None
        message = ctypes.c_char_p()
        try:
            text = (self.head + source).encode()
            module = library.LLVMPY_ParseAssembly(context, text, ctypes.byref(message))
            if message.value:
                raise CompileError(f"[compile] LLVM refused the module: {message.value.decode()}")
            library.LLVMPY_RunNewModulePassManager(self.passes, module, self.builder)
            return self._emit(module, message)
        finally:
            if message:
                library.LLVMPY_DisposeString(message)
            if module:
                library.LLVMPY_DisposeModule(module)
            library.LLVMPY_ContextDispose(context)

    def _emit(self, module: Any, message: ctypes.c_char_p) -> bytes:
        library = self.library
        memory = library.LLVMPY_TargetMachineEmitToMemory(
            self.target, module, 1, ctypes.byref(message)
        )
        if not memory:
            raise CompileError(f"[compile] LLVM made no code: {(message.value or b'').decode()}")
        try:
            start = library.LLVMPY_GetBufferStart(memory)
            return ctypes.string_at(start, library.LLVMPY_GetBufferSize(memory))
        finally:
            library.LLVMPY_DisposeMemoryBuffer(memory)


# Functions of llvmlite's library that take time, and those that do not.
_LONG = ("ParseAssembly", "RunNewModulePassManager", "TargetMachineEmitToMemory")
_SHORT = (
    "ContextCreate",
    "ContextDispose",
    "DisposeMemoryBuffer",
    "DisposeModule",
    "DisposeString",
    "GetBufferSize",
    "GetBufferStart",
)


@cache
def _library() -> types.SimpleNamespace:
    """The functions of llvmlite's library that a compilation calls, without llvmlite's lock.

    llvmlite lets one thread in at a time. LLVM asks for less: a context and a target machine for
    each thread. The interpreter's lock is let go of for the long calls only: with another thread
    busy in Python, getting it back takes 5 ms each time.
    """
    from llvmlite.binding import ffi

    functions = types.SimpleNamespace()
    for kind, names in ((ctypes.CDLL, _LONG), (ctypes.PyDLL, _SHORT)):
        library = kind(ffi.lib._name, handle=ffi.lib._handle)
        for name in (f"LLVMPY_{name}" for name in names):
            locked, free = getattr(ffi.lib, name), getattr(library, name)
            free.argtypes, free.restype = locked.argtypes, locked.restype
            setattr(functions, name, free)
    return functions
