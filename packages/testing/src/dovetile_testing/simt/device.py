"""The device: memory is NumPy's, programs are Python functions."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dovetile.errors import CompileError, DeviceError, DeviceFault, OutOfMemoryError
from dovetile.plugins import Capabilities, Selection
from dovetile.runtime import Allocation, Buffer, Device, Program
from dovetile_testing.simt import threads
from dovetile_testing.simt.memory import Fault
from dovetile_testing.simt.queue import HostSignal, SimtQueue
from dovetile_testing.simt.renderer import NATIVE_OPS

CAPABILITIES = Capabilities(
    architecture="simt-1",
    native_ops=NATIVE_OPS,
    parallel_axes=("GROUP", "LOCAL"),
    threads=16,
    group_threads=1024,
    warp=32,
    vector_bytes=16,
    local_bytes=48 << 10,
    line_bytes=128,
    supports_barrier=True,
    # NumPy does one operation on an array of threads in some microseconds.
    operations_per_second=1e9,
    bytes_per_second=1e9,
)
"""Those of a small GPU."""


class SimtProgram(Program):
    """A kernel as a Python function, and the workgroups it is written for."""

    def __init__(self, device: SimtDevice, binary: bytes, name: str) -> None:
        self.device = device
        self.name = name
        namespace: dict[str, Any] = {}
        try:
            exec(compile(binary, f"<kernel {name}>", "exec"), namespace)
            self.function = namespace[name]
            self.shape: threads.Shape = namespace["shape"]
        except Exception as error:
            raise CompileError(
                f"[load] the binary has no kernel {name!r}: {type(error).__name__}: {error}"
            ) from error

    def run(
        self, buffers: Sequence[Buffer], scalars: Sequence[int], groups: Sequence[int],
        local: Sequence[int],
    ) -> None:  # fmt: skip
        """Run the kernel here and now. Raises DeviceFault."""
        count, each = math.prod(groups), math.prod(local)
        if count > self.shape.groups or each != self.shape.threads:
            raise DeviceError(
                f"[launch] kernel {self.name!r} with {count} groups of {each} threads; it is "
                f"written for {self.shape.groups} groups of {self.shape.threads}"
            )
        memory = [memory_at(b.address, b.nbytes) for b in buffers]
        try:
            threads.launch(self.function, self.shape, memory, scalars, count)
        except Fault as fault:
            raise DeviceFault(f"[launch] kernel {self.name!r}: {fault}") from None
        except Exception as error:
            raise DeviceFault(
                f"[launch] kernel {self.name!r} failed: {type(error).__name__}: {error}"
            ) from error


class SimtDevice(Device):
    def __init__(self, selection: Selection) -> None:
        self.name = selection.name
        self.capabilities = CAPABILITIES
        assert selection.compiler.renderer is not None
        self.renderer = selection.compiler.renderer(self.capabilities)
        self.compiler = selection.compiler.compiler(self.capabilities)
        self.queue = SimtQueue(self.name)
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

    def load(self, binary: bytes, name: str) -> SimtProgram:
        return SimtProgram(self, binary, name)

    def new_signal(self) -> HostSignal:
        return HostSignal()


def memory_at(address: int, nbytes: int) -> np.ndarray:
    """The bytes at an address, as an array that shares them."""
    if nbytes == 0:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
