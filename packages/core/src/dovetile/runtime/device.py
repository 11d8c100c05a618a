"""The base class of all devices."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from dovetile.runtime.allocator import Allocation, CachingAllocator

if TYPE_CHECKING:
    from dovetile.plugins import Capabilities
    from dovetile.runtime.buffer import Buffer
    from dovetile.runtime.compile import Compiler, Renderer
    from dovetile.runtime.program import Program
    from dovetile.runtime.queue import Queue, Signal


class Device(ABC):
    """One device of this process: memory, programs and a queue.

    A backend implements the abstract methods, and sets the attributes before it calls
    `Device.__init__`.
    """

    name: str
    """As in ``DEV=``: ``NAME``, ``NAME:1``..."""
    capabilities: Capabilities
    renderer: Renderer
    compiler: Compiler
    queue: Queue
    fault_word: Buffer | None = None
    """Where kernels report bad indices, once there are such kernels; see `faults`."""

    def __init__(self, keep_bytes: int = 1 << 30) -> None:
        """Set up the pool of freed memory, of at most `keep_bytes`."""
        self.allocator = CachingAllocator(
            self.allocate_memory, self.release_memory, self.wait, keep_bytes
        )
        self.programs: dict[str, Program] = {}
        """Loaded programs by the key of their content."""
        self.programs_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<device {self.name}>"

    # -- What a backend implements -----------------------------------------------------------

    @abstractmethod
    def allocate_memory(self, nbytes: int) -> Allocation:
        """Fresh memory of exactly `nbytes` bytes. Raises OutOfMemoryError."""

    @abstractmethod
    def release_memory(self, allocation: Allocation) -> None:
        """Give memory back to the system; no command uses it any more."""

    @abstractmethod
    def copy_in(self, address: int, content: memoryview) -> None:
        """Copy host memory to the device, after all recorded commands; complete on return."""

    @abstractmethod
    def copy_out(self, content: memoryview, address: int) -> None:
        """Copy device memory to writable host memory, after all recorded commands."""

    @abstractmethod
    def load(self, binary: bytes, name: str) -> Program:
        """Make the kernel `name` of a compiled binary ready. Raises CompileError."""

    @abstractmethod
    def new_signal(self) -> Signal:
        """A signal that this device's queue can set and wait for."""

    # -- What all devices share --------------------------------------------------------------

    def reaches(self, other: Device) -> bool:
        """Whether commands of this device may use the memory and the signals of `other`.

        As they stand by default: memory of the host, of devices of one kind.
        """
        if self is other:
            return True
        visible = self.capabilities.host_visible and other.capabilities.host_visible
        return visible and type(self) is type(other)

    def synchronize(self) -> None:
        """Wait until all work is complete.

        Raises DeviceFault where a kernel failed, IndexOutOfRangeError where one met a bad index.
        """
        self.wait()
        if self.fault_word is not None:
            from dovetile.runtime.faults import check_faults

            check_faults(self)

    def wait(self) -> None:
        """Wait until all work is complete, but leave reports of bad indices to `synchronize`."""
        queue = self.queue
        queue.synchronize()
        if queue.retired:
            queue.collect_retired()


def get_device(name: str | None = None) -> Device:
    """The device of that name, or the default one, opened at its first use.

    Raises DeviceError where it is unknown or cannot be used; the message has cause and fix.
    """
    from dovetile import plugins

    return plugins.open_device(plugins.default_device_name() if name is None else name)
