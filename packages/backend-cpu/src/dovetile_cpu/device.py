"""The CPU as a device."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from dovetile.errors import CompileError, DeviceError, OutOfMemoryError
from dovetile.runtime import Allocation, Device, Program, Signal
from dovetile_cpu import elf_loader, host, matrix_units, memory_map
from dovetile_cpu.processor import Processor
from dovetile_cpu.queue import CpuQueue, CpuSignal

if TYPE_CHECKING:
    from dovetile.plugins import Selection
    from dovetile.runtime import Renderer

_ALIGNMENT = 64


class CpuProgram(Program):
    """A kernel's machine code in memory; it goes when the program goes and nothing runs it."""

    def __init__(self, device: CpuDevice, code: elf_loader.LoadedObject, name: str) -> None:
        self.device = device
        self.name = name
        self.address = code.functions[name]
        self._code = code

    def __del__(self) -> None:
        if hasattr(self, "_code"):
            self.device.queue.retire(_Unloader(self._code))


class _Unloader:
    """Unloads code when it is let go of."""

    def __init__(self, code: elf_loader.LoadedObject) -> None:
        self._code = code

    def __del__(self) -> None:
        self._code.unload()


class CpuDevice(Device):
    """This machine's processor and memory.

    Args:
        selection: index and compiler. Devices of one index share their queue and threads,
            whatever their compilers.
    """

    def __init__(self, selection: Selection) -> None:
        self.name = selection.name
        self.capabilities = host.capabilities()
        if selection.compiler.name == "LLVM":  # its renderer alone writes what these units do
            self.capabilities = replace(self.capabilities, matrix_units=matrix_units.available())
        self.compiler = selection.compiler.compiler(self.capabilities)
        self._make_renderer = selection.compiler.renderer
        self.queue = self._queue = _queue(selection.index)
        self._memory_bytes = host.memory_bytes()
        self._allocated_bytes = 0
        super().__init__(keep_bytes=self._memory_bytes // 4)

    @cached_property
    def renderer(self) -> Renderer:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Made at first use: a process that finds all its kernels in the cache needs none."""
        if self._make_renderer is None:
            raise DeviceError(f"[render] compiler of {self.name} came without a renderer")
        return self._make_renderer(self.capabilities)

    def allocate_memory(self, nbytes: int) -> Allocation:
        # The system promises more than it has, and kills who uses it: refuse in time.
        if self._allocated_bytes + nbytes > self._memory_bytes:
            raise OutOfMemoryError(
                f"[allocate] {nbytes} bytes; {self.name} has {self._memory_bytes} bytes"
            )
        large = nbytes >= 2 * memory_map.HUGE_PAGE
        libc = memory_map.libc()
        pointer = ctypes.c_void_p()
        alignment = memory_map.HUGE_PAGE if large else _ALIGNMENT
        status = libc.posix_memalign(
            ctypes.byref(pointer), ctypes.c_size_t(alignment), ctypes.c_size_t(nbytes)
        )
        if status != 0 or pointer.value is None:
            raise OutOfMemoryError(f"[allocate] {nbytes} bytes; the system refused")
        if large:
            memory_map.prefer_huge_pages(pointer.value, nbytes)
        self._allocated_bytes += nbytes
        return Allocation(pointer.value, nbytes)

    def release_memory(self, allocation: Allocation) -> None:
        self._allocated_bytes -= allocation.nbytes
        memory_map.libc().free(ctypes.c_void_p(allocation.address))

    def copy_in(self, address: int, content: memoryview) -> None:
        self.wait()
        memory = (ctypes.c_char * content.nbytes).from_address(address)
        memoryview(memory).cast("B")[:] = content.cast("B")

    def copy_out(self, content: memoryview, address: int) -> None:
        self.wait()
        memory = (ctypes.c_char * content.nbytes).from_address(address)
        content.cast("B")[:] = memoryview(memory).cast("B")

    def load(self, binary: bytes, name: str) -> CpuProgram:
        code = elf_loader.load_object(binary)
        if name not in code.functions:
            code.unload()
            raise CompileError(
                f"[load] kernel {name!r} is not in the binary; it has {sorted(code.functions)}"
            )
        program = CpuProgram(self, code, name)
        self._queue.function_names[program.address] = name
        return program

    def new_signal(self) -> Signal:
        return CpuSignal(self._queue.processor)


_queues: dict[int, CpuQueue] = {}
_queues_lock = threading.Lock()


def _queue(index: int) -> CpuQueue:
    with _queues_lock:
        if index not in _queues:
            _queues[index] = CpuQueue(Processor(host.threads()))
        return _queues[index]
