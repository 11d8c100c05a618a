"""The LLVM compiler: LLVM IR text to an object file, in process, through llvmlite.

llvmlite is imported only when something must be compiled. A process that finds all its kernels
in the cache never pays for it (its import takes longer than the whole rest of the start).
"""

from __future__ import annotations

import ctypes
import threading
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
    """Compiles LLVM IR text for this machine's processor."""

    language = "llvm-ir"

    def available(self) -> str | None:
        """None where it can be used, else what to install."""
        return available()

    def fingerprint(self) -> str:
        """Changes whenever the same source may give other code. Cheap: does not load LLVM."""
        return f"llvmlite-{metadata.version('llvmlite')}/{host.fingerprint()}/{_PIPELINE}"

    def compile(self, source: str) -> bytes:
        """The object file of a module. Raises CompileError with LLVM's message."""
        return _machine().compile(source)

    def compile_many(self, sources: Sequence[str]) -> list[bytes]:
        """The object file of each module, in order."""
        return [self.compile(source) for source in sources]


_PIPELINE = "1"  # number of the pass pipeline below; part of the fingerprint


@cache
def _machine() -> _Machine:
    return _Machine()


class _Machine:
    """LLVM, set up for this processor. One thread at a time: llvmlite shares its state."""

    def __init__(self) -> None:
        from llvmlite import binding

        self.binding = binding
        self.lock = threading.Lock()
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
        self.options = binding.create_pipeline_tuning_options(speed_level=1)
        self.options.loop_vectorization = False
        self.options.slp_vectorization = False
        self.options.loop_unrolling = False
        self.options.loop_interleaving = False
        self.builder = binding.create_pass_builder(self.target, self.options)

    def passes(self) -> Any:
        """Cheap clean-up: kernels arrive vectorised, unrolled and with their invariants hoisted."""
        manager = self.binding.create_new_module_pass_manager()
        manager.add_sroa_pass()
        manager.add_instruction_combine_pass()
        manager.add_simplify_cfg_pass()
        return manager

    def compile(self, source: str) -> bytes:
        with self.lock:
            context = self.binding.create_context()
            try:
                module = self.binding.parse_assembly(source, context)
                with module:
                    module.triple = self.target.triple
                    module.data_layout = str(self.target.target_data)
                    self.passes().run(module, self.builder)
                    return self.target.emit_object(module)
            except RuntimeError as error:
                raise CompileError(f"[compile] LLVM refused the module: {error}") from error
