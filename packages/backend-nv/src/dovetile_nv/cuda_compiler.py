"""The CUDA compiler: CUDA C++ to a cubin for one architecture by NVRTC, with no GPU and no toolkit.

Reference: NVIDIA, NVRTC documentation (docs.nvidia.com/cuda/nvrtc).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

from dovetile.errors import CompileError
from dovetile.plugins import Capabilities
from dovetile_nv import libraries
from dovetile_nv.parallel import compile_all

_OPTIONS = ("--std=c++17", "--disable-warnings", "--minimal")


def available() -> str | None:
    """None where NVRTC is installed, else what to install."""
    return libraries.missing("nvrtc")


class CudaCompiler:
    """Compiles CUDA C++ for one architecture. Thread-safe."""

    language = "cuda"

    def __init__(self, capabilities: Capabilities) -> None:
        self._options = (f"--gpu-architecture={capabilities.architecture}", *_OPTIONS)

    def available(self) -> str | None:
        """None where it can be used, else what to install."""
        return available()

    def fingerprint(self) -> str:
        """Changes whenever the same source may give other code. Cheap: does not load NVRTC."""
        return f"{libraries.stamp('nvrtc')}/{' '.join(self._options)}"

    def compile(self, source: str) -> bytes:
        """The cubin of a source. Raises CompileError with NVRTC's message."""
        nvrtc = _Nvrtc.get()
        program = ctypes.c_void_p()
        text = source.encode()
        nvrtc.call("CreateProgram", ctypes.byref(program), text, b"kernel.cu", 0, None, None)
        try:
            options = (ctypes.c_char_p * len(self._options))(*(o.encode() for o in self._options))
            if nvrtc.status("CompileProgram", program, len(options), options):
                log = nvrtc.data(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
                raise CompileError(f"[cuda] NVRTC refused the source:\n{log.strip()}")
            return nvrtc.data(program, "CUBIN")
        finally:
            nvrtc.call("DestroyProgram", ctypes.byref(program))

    def compile_many(self, sources: Sequence[str]) -> list[bytes]:
        """The cubin of each source, in order, as many at a time as there are processors."""
        return compile_all(self.compile, sources)


class _Nvrtc:
    """The library's functions."""

    def __init__(self) -> None:
        self.library, _ = libraries.load("nvrtc")
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    @staticmethod
    @cache
    def get() -> _Nvrtc:
        return _Nvrtc()

    def status(self, name: str, *arguments: object) -> int:
        return getattr(self.library, f"nvrtc{name}")(*arguments)

    def call(self, name: str, *arguments: object) -> None:
        status = self.status(name, *arguments)
        if status:
            text = self.library.nvrtcGetErrorString(status).decode()
            raise CompileError(f"[cuda] nvrtc{name}: {text}")

    def data(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self.call(f"Get{what}Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self.call(f"Get{what}", program, data)
        return data.raw
