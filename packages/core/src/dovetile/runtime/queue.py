"""Command queues: the one way to make a device do something.

Commands of a queue run in the order they were recorded; queues of different devices are ordered
by signals. Recording is cheap and nothing runs before `submit` (or `synchronize`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dovetile.errors import DeviceError

if TYPE_CHECKING:
    from dovetile.runtime.buffer import Buffer
    from dovetile.runtime.program import Program


class Signal(ABC):
    """A 64-bit counter, zero at first, that devices and the host can set and wait for."""

    @property
    @abstractmethod
    def value(self) -> int:
        """The value now."""

    @value.setter
    @abstractmethod
    def value(self, value: int) -> None: ...

    def wait(self, value: int, timeout: float | None = None) -> None:
        """Wait on the host until the signal is at least `value`.

        Args:
            timeout: in seconds; None waits for ever (Ctrl-C works).

        Raises DeviceError after `timeout`.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        pause = 0.0
        while self.value < value:
            if limit is not None and time.monotonic() > limit:
                raise DeviceError(
                    f"[wait] the signal is {self.value} after {timeout} s; {value} was awaited"
                )
            time.sleep(pause)
            pause = min(pause + 1e-5, 1e-3)


# -- Commands as values: what a captured list is made of ---------------------------------------


@dataclass(frozen=True, eq=False)
class Launch:
    """Run a kernel."""

    program: Program
    buffers: tuple[Buffer, ...]
    """In slot order."""
    scalars: tuple[int, ...] = ()
    """Values of the kernel's variables."""
    groups: tuple[int, ...] = (1,)
    """How many workgroups along each axis; on a device of threads, the number of parts."""
    local: tuple[int, ...] = ()
    """Work items per workgroup along each axis, where the device has such."""
    early: bool = False
    """Whether it may begin before a launch directly ahead of it is complete: the kernel waits."""


@dataclass(frozen=True, eq=False)
class Copy:
    """Copy a buffer to another of the same size."""

    destination: Buffer
    source: Buffer


@dataclass(frozen=True, eq=False)
class SignalStore:
    """Set a signal, after all earlier commands."""

    signal: Signal
    value: int


@dataclass(frozen=True, eq=False)
class SignalWait:
    """Hold all later commands until a signal is at least `value`."""

    signal: Signal
    value: int


@dataclass(frozen=True, eq=False)
class Timestamp:
    """Set a signal to the device's clock, in nanoseconds."""

    signal: Signal


Command = Launch | Copy | SignalStore | SignalWait | Timestamp


class CommandList(ABC):
    """Commands that were built once and are replayed. It keeps their buffers alive."""

    @abstractmethod
    def buffer_slot(self, command: int, argument: int) -> int:
        """The number by which `submit` replaces a buffer.

        Args:
            command: index of a Launch or a Copy in the list; argument: index among its buffers,
                of which a Copy has its destination first.
        """

    @abstractmethod
    def scalar_slot(self, command: int, argument: int) -> int:
        """The number by which `submit` replaces the value of a variable."""

    @abstractmethod
    def submit(self, patches: Iterable[tuple[int, Buffer | int]] = ()) -> int:
        """Replay the list. Returns the position to `synchronize` with.

        Args:
            patches: (slot, new buffer or value), which hold from this replay on.
        """


class Queue(ABC):
    """The commands of one device. Thread-safe."""

    position: int
    """The position behind the last recorded command; positions only grow."""

    def __init__(self) -> None:
        self.retired: deque[tuple[int, object]] = deque()
        """(position, resource) of what `retire` keeps alive."""

    def retire(self, resource: object) -> None:
        """Keep `resource` alive until all commands recorded so far are complete.

        May be called from finalizers: it takes no lock.
        """
        self.retired.append((self.position, resource))

    def collect_retired(self) -> None:
        """Let go of retired resources that no pending command uses."""
        while self.retired:
            try:
                position, resource = self.retired.popleft()
            except IndexError:  # another thread took the last
                return
            if not self.is_complete(position):
                self.retired.appendleft((position, resource))
                return

    @abstractmethod
    def launch(
        self,
        program: Program,
        buffers: Sequence[Buffer],
        scalars: Sequence[int] = (),
        groups: Sequence[int] = (1,),
        local: Sequence[int] = (),
    ) -> None:
        """Record the launch of a kernel; the arguments are those of `Launch`."""

    @abstractmethod
    def copy(self, destination: Buffer, source: Buffer) -> None:
        """Record a copy between two buffers of the same size."""

    @abstractmethod
    def signal(self, signal: Signal, value: int) -> None:
        """Record that `signal` is to be set once all earlier commands are complete."""

    @abstractmethod
    def wait(self, signal: Signal, value: int) -> None:
        """Record that later commands wait until `signal` is at least `value`."""

    @abstractmethod
    def timestamp(self, signal: Signal) -> None:
        """Record that `signal` is to be set to the device's clock, in nanoseconds."""

    def barrier(self) -> None:
        """Record that later commands see all effects of earlier ones.

        There is nothing to do where, as by default, each command waits for the one before.
        """
        return None

    @abstractmethod
    def submit(self) -> int:
        """Hand what was recorded to the device. Returns the position behind the last command."""

    @abstractmethod
    def synchronize(self, position: int | None = None) -> None:
        """Submit, and wait until everything (or all before `position`) is complete.

        Raises DeviceFault where a kernel failed since the last call; the queue is usable after.
        """

    @abstractmethod
    def is_complete(self, position: int) -> bool:
        """Whether all commands before `position` are complete. Does not wait."""

    @abstractmethod
    def capture(self, commands: Sequence[Command]) -> CommandList:
        """Build a list of commands for many replays."""
