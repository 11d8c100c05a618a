"""NVIDIA GPUs as devices."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING
from weakref import WeakSet

import numpy as np

from dovetile.errors import DeviceError, OutOfMemoryError
from dovetile.runtime import Allocation, Device, Program, Renderer, Signal
from dovetile_nv import capabilities
from dovetile_nv.copies import CopyKernels
from dovetile_nv.queue import NvQueue, NvSignal
from dovetile_nv.selection import open_interface

if TYPE_CHECKING:
    from dovetile.plugins import Capabilities, Selection

_STAGING_BYTES = 8 << 20  # pinned, half of it filled while the GPU empties the other
_KEPT_PART = 2  # freed memory that is kept: the reciprocal of its part of the GPU's memory


class NvDevice(Device):
    """One GPU.

    Args:
        selection: index and compiler.
    """

    def __init__(self, selection: Selection) -> None:
        self.name = selection.name
        self.interface = interface = open_interface(selection.index)
        capable = _capabilities(interface.number, interface.multiprocessors)
        if selection.compiler.language != "cuda":
            # Only CUDA C++ is written with operands that threads hold.
            units = tuple(replace(u, holds=False) for u in capable.matrix_units)
            capable = replace(capable, matrix_units=units)
        self.capabilities = capable
        if selection.architecture is not None:
            _check_architecture(selection.architecture, interface.number)
        self.compiler = selection.compiler.compiler(self.capabilities)
        self._make_renderer = selection.compiler.renderer
        self.queue = self._queue = NvQueue(interface)
        interface.copies = CopyKernels(self)
        self._staging = interface.pin(_STAGING_BYTES)
        self._staging_lock = threading.Lock()
        super().__init__(keep_bytes=interface.memory_bytes // _KEPT_PART)
        _devices.add(self)

    def abandon(self) -> None:
        """Leaves the GPU to the parent of this process, which is the child of a fork."""
        self.interface.abandoned = True
        self._queue.abandon(
            DeviceError(
                f"[fork] the parent of this process has opened {self.name}, and a child cannot use "
                "what is on a GPU; start processes by `spawn`, or open the device after the fork"
            )
        )

    @cached_property
    def renderer(self) -> Renderer:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Made at first use: a process that finds all its kernels in the cache needs none."""
        if self._make_renderer is None:
            raise DeviceError(f"[render] compiler of {self.name} came without a renderer")
        return self._make_renderer(self.capabilities)

    def allocate_memory(self, nbytes: int) -> Allocation:
        self._queue.require()
        try:
            if nbytes > self.interface.memory_bytes:  # the driver may not even take the number
                raise OutOfMemoryError(f"the GPU has {self.interface.memory_bytes}")
            return self.interface.allocate(nbytes)
        except OutOfMemoryError as error:
            text = f"[allocate] {nbytes} bytes on {self.name}: {error}"
            raise OutOfMemoryError(text) from error

    def release_memory(self, allocation: Allocation) -> None:
        if not self.interface.abandoned:
            self.interface.release(allocation)

    def copy_in(self, address: int, content: memoryview) -> None:
        self._queue.require()
        source = _address(content)
        queue, half = self._queue, _STAGING_BYTES // 2
        with self._staging_lock:
            ends = [0, 0]  # when each half of the staging memory is free
            for number, start in enumerate(range(0, content.nbytes, half)):
                nbytes = min(half, content.nbytes - start)
                offset = number % 2 * half
                queue.synchronize(ends[number % 2])
                _copy(self._staging.host_address + offset, source + start, nbytes)
                queue.transfer(address + start, self._staging.address + offset, nbytes)
                ends[number % 2] = queue.submit()
            self.wait()

    def copy_out(self, content: memoryview, address: int) -> None:
        self._queue.require()
        destination = _address(content)
        queue, half = self._queue, _STAGING_BYTES // 2
        pending: deque[tuple[int, int, int, int]] = deque()  # position, from, to, bytes
        with self._staging_lock:
            for number, start in enumerate(range(0, content.nbytes, half)):
                nbytes = min(half, content.nbytes - start)
                offset = number % 2 * half
                if len(pending) == 2:
                    self._finish(*pending.popleft())
                queue.transfer(self._staging.address + offset, address + start, nbytes)
                staging = self._staging.host_address + offset
                pending.append((queue.submit(), staging, destination + start, nbytes))
            while pending:
                self._finish(*pending.popleft())
            self.wait()

    def _finish(self, position: int, source: int, destination: int, nbytes: int) -> None:
        self._queue.synchronize(position)
        _copy(destination, source, nbytes)

    def reaches(self, other: Device) -> bool:
        if self is other:
            return True
        return isinstance(other, NvDevice) and self.interface.reaches(other.interface)

    def load(self, binary: bytes, name: str) -> Program:
        self._queue.require()
        program = self.interface.load(binary, name)
        program.device = self
        return program

    def new_signal(self) -> Signal:
        return NvSignal(self._queue.signals)


_devices: WeakSet[NvDevice] = WeakSet()


def _after_fork() -> None:
    for device in _devices:
        device.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

_memcpy = ctypes.CDLL(None).memcpy  # unlike ctypes.memmove, it lets other threads run
_memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_memcpy.restype = ctypes.c_void_p
_COPIERS = 4
_COPY_PART = 1 << 20  # bytes that are worth another thread


@cache
def _copiers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_COPIERS, "dovetile-copy")


def _copy(destination: int, source: int, nbytes: int) -> None:
    """Copies host memory; one thread does not reach half of what the bus takes."""
    if nbytes < 2 * _COPY_PART:
        _memcpy(destination, source, nbytes)
        return
    starts = range(0, nbytes, _COPY_PART)
    parts = [
        _copiers().submit(
            _memcpy, destination + start, source + start, min(_COPY_PART, nbytes - start)
        )
        for start in starts
    ]
    for part in parts:
        part.result()


def _address(content: memoryview) -> int:
    """Where the bytes lie, of read-only ones too."""
    return np.frombuffer(content, np.uint8).ctypes.data if content.nbytes else 0


def _capabilities(number: int, multiprocessors: int) -> Capabilities:
    """What a GPU of this compute capability can do. Raises DeviceError for one not known."""
    for row in capabilities.ARCHITECTURES.values():
        if row.number == number:
            return capabilities.capabilities_of(replace(row, multiprocessors=multiprocessors))
    known = ", ".join(capabilities.ARCHITECTURES)
    raise DeviceError(f"[nv] a GPU of compute capability {number / 10}; known are {known}")


def _check_architecture(name: str, number: int) -> None:
    found = capabilities.architecture_of(name).number
    if found != number:
        raise DeviceError(
            f"[nv] code for {name} does not run on this GPU, which is sm_{number}; leave the "
            "architecture out of DEV"
        )
