"""The device: memory is NumPy's, programs are Python functions."""

from __future__ import annotations

import ctypes
import platform
from typing import Any

import numpy as np

from dovetile.errors import CompileError, OutOfMemoryError
from dovetile.plugins import Capabilities, Selection
from dovetile.runtime import Allocation, Device, Program
from dovetile_npy.queue import HostSignal, NumpyQueue
from dovetile_npy.renderer import NATIVE_OPS


class NumpyProgram(Program):
    """A kernel as a Python function ``(buffers, variables, part)``."""

    def __init__(self, device: NumpyDevice, binary: bytes, name: str) -> None:
        self.device = device
        self.name = name
        namespace: dict[str, Any] = {}
        try:
            exec(compile(binary, f"<kernel {name}>", "exec"), namespace)
            self.function = namespace[name]
        except Exception as error:
            raise CompileError(
                f"[load] the binary has no kernel {name!r}: {type(error).__name__}: {error}"
            ) from error


class NumpyDevice(Device):
    def __init__(self, selection: Selection) -> None:
        self.name = selection.name
        self.capabilities = Capabilities(
            architecture=f"numpy-{platform.machine()}",
            native_ops=NATIVE_OPS,
            # One operation on one element takes NumPy about a microsecond.
            operations_per_second=1e6,
            bytes_per_second=1e7,
        )
        assert selection.compiler.renderer is not None
        self.renderer = selection.compiler.renderer(self.capabilities)
        self.compiler = selection.compiler.compiler(self.capabilities)
        self.queue = NumpyQueue(self.name)
        super().__init__(keep_bytes=1 << 24)

    def allocate_memory(self, nbytes: int) -> Allocation:
        try:
            memory = np.empty(nbytes, np.uint8)
        except (MemoryError, ValueError) as error:
            raise OutOfMemoryError(f"[allocate] {nbytes} bytes on {self.name}: {error}") from error
        return Allocation(memory.ctypes.data, nbytes, memory)

    def release_memory(self, allocation: Allocation) -> None:
        allocation.handle = None

    def copy_in(self, address: int, content: memoryview) -> None:
        self.queue.synchronize()
        memory_at(address, content.nbytes)[:] = np.frombuffer(content, np.uint8)

    def copy_out(self, content: memoryview, address: int) -> None:
        self.queue.synchronize()
        np.frombuffer(content, np.uint8)[:] = memory_at(address, content.nbytes)

    def load(self, binary: bytes, name: str) -> NumpyProgram:
        return NumpyProgram(self, binary, name)

    def new_signal(self) -> HostSignal:
        return HostSignal()


def memory_at(address: int, nbytes: int) -> np.ndarray:
    """The bytes at an address, as an array that shares them."""
    if nbytes == 0:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
