"""What the device's classes ask of the system behind them: of the raw queue, or of libcuda."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dovetile.runtime import Allocation, Program

if TYPE_CHECKING:
    from dovetile.runtime import Command
    from dovetile_nv.copies import CopyKernels
    from dovetile_nv.cubin import Kernel


@dataclass(eq=False)
class Pinned:
    """Memory of the host that the GPU reads and writes."""

    host_address: int
    address: int
    """As the GPU sees it."""
    nbytes: int
    handle: object = None


@dataclass(frozen=True)
class Fault:
    """What went wrong on the GPU."""

    cause: str
    recoverable: bool
    """Whether the device can go on; its memory then keeps its content."""


class NvProgram(Program):
    """A kernel on one device."""

    kernel: Kernel


class Interface(ABC):
    """One GPU, opened through one of the two ways to its driver."""

    name: str
    """RAW or LIBCUDA."""
    number: int
    """Compute capability as in sm_90: 90."""
    multiprocessors: int
    memory_bytes: int
    stream: Stream
    copies: CopyKernels
    """For interfaces that copy by kernels; the device sets it."""
    abandoned = False
    """Whether this process is the child of a fork: what there is belongs to the parent, and must
    not be given back here."""

    @abstractmethod
    def allocate(self, nbytes: int) -> Allocation:
        """Memory of the GPU. Raises OutOfMemoryError."""

    @abstractmethod
    def release(self, allocation: Allocation) -> None:
        """Gives memory back that no command uses."""

    @abstractmethod
    def pin(self, nbytes: int) -> Pinned:
        """Pinned memory of the host. Raises OutOfMemoryError."""

    @abstractmethod
    def unpin(self, pinned: Pinned) -> None:
        """Gives pinned memory back that no command uses."""

    @abstractmethod
    def load(self, binary: bytes, name: str) -> NvProgram:
        """Loads a kernel of a cubin. Raises CompileError."""

    @abstractmethod
    def reaches(self, other: Interface) -> bool:
        """Whether commands of this GPU may use the memory of the other, once it is admitted."""

    @abstractmethod
    def admit(self, handle: object) -> None:
        """Makes memory of another GPU, or memory that was pinned for it, one of this GPU's too.

        Args:
            handle: of the Allocation, or of what was pinned.
        """

    @abstractmethod
    def open_stream(self, timeline: Timeline) -> None:
        """Makes `stream`."""


class Stream(ABC):
    """Commands in order. Not thread-safe: the queue takes care."""

    @abstractmethod
    def launch(
        self, program: NvProgram, groups: int, threads: int, arguments: Sequence[int], position: int
    ) -> None:
        """Records a launch, which is complete once the timeline has reached `position`."""

    @abstractmethod
    def transfer(self, destination: int, source: int, nbytes: int) -> None:
        """Records a copy between any two addresses, of the GPU's memory or pinned."""

    @abstractmethod
    def copy(self, destination: int, source: int, nbytes: int, position: int) -> None:
        """Records a copy within the GPU's memory, complete at `position` of the timeline."""

    @abstractmethod
    def write(self, address: int, value: int) -> None:
        """Records that 64 bits are to be written once everything before is complete."""

    @abstractmethod
    def wait(self, address: int, value: int) -> None:
        """Records that what follows waits until the 64 bits there are at least `value`."""

    @abstractmethod
    def write_time(self, address: int) -> None:
        """Records that the GPU's clock, in nanoseconds, is to be written to `address`, the second
        half of 16 aligned bytes; the first half may change too."""

    @abstractmethod
    def submit(self, position: int) -> None:
        """Hands over what is recorded; the timeline is at `position` when it is complete."""

    @abstractmethod
    def build(self, commands: Sequence[Command]) -> Replay:
        """Prepares a list of commands for many replays."""

    @abstractmethod
    def fault(self) -> Fault | None:
        """What has stopped the commands, if anything."""

    @abstractmethod
    def recover(self) -> None:
        """Makes the stream usable after a recoverable fault; recorded commands are lost."""


class Replay(ABC):
    """A prepared list of commands."""

    slots: list[tuple[int, int, int]]
    """For each command: number of its first argument, how many buffers, how many variables. The
    buffers of a Copy have numbers too, but another Copy needs another list."""
    values: list[int]
    """The arguments by their number, as the next replay finds them."""

    @abstractmethod
    def run(self, changed: Sequence[int], idle: bool, position: int) -> None:
        """Records the list into the stream.

        Args:
            changed: numbers of arguments that `values` holds new values of.
            idle: no earlier replay is pending.
            position: of the timeline when this one is complete.
        """


class Timeline:
    """A counter in pinned memory that tells how far the GPU has come."""

    def __init__(self, pinned: Pinned, offset: int) -> None:
        # 16 bytes, as a time stamp needs: it comes with a word before it.
        self.address = pinned.address + offset + 8
        self.host_address = pinned.host_address + offset + 8
        self._word = ctypes.c_uint64.from_address(self.host_address)
        self._word.value = 0
        self._pinned = pinned  # keeps it mapped
        self.wait: Callable[[int], None] = lambda position: None
        """Waits until the counter has reached a position; the queue sets it."""

    @property
    def value(self) -> int:
        return self._word.value

    @value.setter
    def value(self, value: int) -> None:
        self._word.value = value

    def abandon(self) -> None:
        """Reads as zero from now on."""
        self._word = ctypes.c_uint64()


RECORD_BYTES = 16
