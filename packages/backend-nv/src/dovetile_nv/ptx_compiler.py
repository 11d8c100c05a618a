"""The PTX compiler: LLVM IR to PTX by LLVM, then to a cubin for one architecture by nvJitLink.

llvmlite is imported only when something must be compiled, and neither step needs a GPU. Reference:
NVIDIA, nvJitLink documentation (docs.nvidia.com/cuda/nvjitlink).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache, cached_property
from importlib import metadata, util
from typing import Any

from dovetile.errors import CompileError
from dovetile.plugins import Capabilities
from dovetile_nv import libraries
from dovetile_nv.capabilities import architecture_of
from dovetile_nv.parallel import compile_all

_TRIPLE = "nvptx64-nvidia-cuda"
_PIPELINE = "2"  # number of the pass pipeline below; part of the fingerprint
_PTX = 2  # nvJitLinkInputType
_PTX_VERSION = "+ptx84"


def available() -> str | None:
    """None where llvmlite and nvJitLink are installed, else what to install."""
    if util.find_spec("llvmlite") is None:
        return "llvmlite is not installed; run: pip install llvmlite"
    return libraries.missing("nvJitLink")


class PtxCompiler:
    """Compiles LLVM IR for one architecture. Thread-safe."""

    language = "llvm-ir"

    def __init__(self, capabilities: Capabilities) -> None:
        self._architecture = capabilities.architecture

    def available(self) -> str | None:
        """None where it can be used, else what to install."""
        return available()

    def fingerprint(self) -> str:
        """Changes whenever the same source may give other code. Cheap: loads no library."""
        llvm = metadata.version("llvmlite")
        linker = libraries.stamp("nvJitLink")
        return f"llvmlite-{llvm}/{linker}/{self._architecture}/{_PIPELINE}"

    def compile(self, source: str) -> bytes:
        """The cubin of a module. Raises CompileError with the message of LLVM or nvJitLink."""
        return _Linker.get().cubin(self.assembly(source), self._architecture)

    def compile_many(self, sources: Sequence[str]) -> list[bytes]:
        """The cubin of each module, in order, as many at a time as there are processors."""
        return compile_all(self.compile, sources)

    def assembly(self, source: str) -> str:
        """The PTX of a module."""
        return self._llvm.assembly(source)

    @cached_property
    def _llvm(self) -> _Llvm:
        return _Llvm(self._architecture)


class _Llvm:
    """LLVM, set up for one architecture. llvmlite itself lets one thread in at a time."""

    def __init__(self, architecture: str) -> None:
        from llvmlite import binding

        self.binding = binding
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
        target = binding.Target.from_triple(_TRIPLE)
        # The least version of PTX that knows all instructions we write; later ones begin with more.
        version = _PTX_VERSION if architecture_of(architecture).number < 100 else ""
        self.machine = target.create_target_machine(cpu=architecture, features=version, opt=2)
        # On the line of the source's first words, so that messages count its lines.
        self.head = f'target datalayout = "{self.machine.target_data}" target triple = "{_TRIPLE}" '

    def assembly(self, source: str) -> str:
        context = self.binding.create_context()
        try:
            module = self.binding.parse_assembly(self.head + source, context=context)
            self._passes().run(module, self._builder())
            return self.machine.emit_assembly(module)
        except RuntimeError as error:
            raise CompileError(f"[ptx] LLVM refused the module: {error}") from error

    def _builder(self) -> Any:
        options = self.binding.create_pipeline_tuning_options(speed_level=1)
        return self.binding.create_pass_builder(self.machine, options)

    def _passes(self) -> Any:
        """Cheap clean-up: kernels arrive vectorised, unrolled and with their invariants hoisted,
        and the assembler behind nvJitLink optimises once more."""
        manager = self.binding.create_new_module_pass_manager()
        manager.add_sroa_pass()
        manager.add_instruction_combine_pass()
        manager.add_simplify_cfg_pass()
        return manager


class _Linker:
    """The functions of nvJitLink, whose names carry the version of CUDA."""

    def __init__(self) -> None:
        self.library, self.major = libraries.load("nvJitLink")

    @staticmethod
    @cache
    def get() -> _Linker:
        return _Linker()

    def cubin(self, assembly: str, architecture: str) -> bytes:
        """The machine code of a PTX module."""
        options = (ctypes.c_char_p * 1)(f"-arch={architecture}".encode())
        link, text = ctypes.c_void_p(), assembly.encode() + b"\0"
        status = self._status("Create", ctypes.byref(link), 1, options)
        try:
            size = ctypes.c_size_t(len(text))
            status = status or self._status("AddData", link, _PTX, text, size, b"kernel.ptx")
            if status or self._status("Complete", link):
                log = self._data(link, "ErrorLog").rstrip(b"\0").decode(errors="replace")
                raise CompileError(f"[ptx] nvJitLink refused the assembly:\n{log.strip()}")
            return self._data(link, "LinkedCubin")
        finally:
            self._status("Destroy", ctypes.byref(link))

    def _status(self, name: str, *arguments: object) -> int:
        return self.library[f"__nvJitLink{name}_{self.major}_0"](*arguments)

    def _data(self, link: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._status(f"Get{what}Size", link, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self._status(f"Get{what}", link, data)
        return data.raw
