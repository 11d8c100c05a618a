"""The CPU's command queue: commands as words in the ring of a command processor."""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from dovetile.errors import ArgumentError, DeviceError, DeviceFault
from dovetile.runtime import (
    Buffer,
    Command,
    CommandList,
    Copy,
    Launch,
    Program,
    Queue,
    Signal,
    SignalStore,
    SignalWait,
)
from dovetile_cpu.processor import RING_WORDS, Processor

if TYPE_CHECKING:
    from dovetile_cpu.device import CpuProgram

# Operations of the command processor; see worker_pool.ll.
_SKIP, _LAUNCH, _SIGNAL, _WAIT, _TIMESTAMP, _PATCH, _CALL = range(7)
_RING_MASK = RING_WORDS - 1
_LARGEST_COMMAND = RING_WORDS // 4
_LARGEST_PATCH = 256  # pairs in one PATCH command
_BACKLOG = 512  # words that may lie in the ring before the background thread is called
# Lists longer than this, in words, run in the background at once. To wake a thread that sleeps
# costs some 30 microseconds, as long as a hundred of the smallest launches take.
_LONG_LIST = 4096
_COPY_PART = 1 << 20  # bytes; smaller copies are not shared among threads


@cache
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"={count}q")


def _header(operation: int, size: int, count: int = 0) -> int:
    return operation | size << 8 | count << 32


_CALL_HEADER = _header(_CALL, 3)


class CpuSignal(Signal):
    """A counter in host memory, with the number of native threads that sleep on it beside it."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self._memory = (ctypes.c_int64 * 2)()
        self.address = ctypes.addressof(self._memory)

    @property
    def value(self) -> int:
        return self._memory[0]

    @value.setter
    def value(self, value: int) -> None:
        self._processor.native.signal(self.address, value)

    def wait(self, value: int, timeout: float | None = None) -> None:
        # Sleeping in native code is woken at once; in slices, so that Ctrl-C works.
        remaining = math.inf if timeout is None else timeout
        while self._processor.native.wait_signal(
            self._processor.address, self.address, value, int(min(remaining, 0.05) * 1e9)
        ):
            remaining -= 0.05
            if remaining <= 0 or self._processor.control.stopping:
                raise DeviceError(
                    f"[wait] the signal is {self.value} after {timeout} s; {value} was awaited"
                )


class CpuQueue(Queue):
    """Records commands straight into the ring; `submit` only moves the ring's end.

    Small work is left for the thread that will wait for it, which saves waking another; work of
    several parts, long lists and signals are started in the background at once.
    """

    def __init__(self, processor: Processor) -> None:
        super().__init__()
        self.processor = processor
        self.position = 0
        self.function_names: dict[int, str] = {}
        """Names of the loaded kernels by address, for faults."""
        self._lock = processor.lock
        self._limit = RING_WORDS  # position that recording must not pass without looking again
        self._start = False  # whether something recorded is to run in the background

    # -- Recording ---------------------------------------------------------------------------

    def launch(
        self,
        program: Program,
        buffers: Sequence[Buffer],
        scalars: Sequence[int] = (),
        groups: Sequence[int] = (1,),
        local: Sequence[int] = (),
    ) -> None:
        parts = groups[0] if len(groups) == 1 else math.prod(groups)
        if parts != 1:
            if parts < 1:
                return
            self._start = True
        function: int = program.address  # type: ignore[attr-defined]
        addresses = [buffer.address for buffer in buffers]
        size = 3 + len(addresses) + len(scalars)
        header = _LAUNCH | size << 8 | parts << 32
        self._record(size, (header, function, len(addresses), *addresses, *scalars))

    def copy(self, destination: Buffer, source: Buffer) -> None:
        function, addresses, scalars, parts = self._copy_arguments(destination, source)
        if parts:
            self._start |= parts > 1
            size = 3 + len(addresses) + len(scalars)
            header = _header(_LAUNCH, size, parts)
            self._record(size, (header, function, len(addresses), *addresses, *scalars))

    def _copy_arguments(
        self, destination: Buffer, source: Buffer
    ) -> tuple[int, list[int], list[int], int]:
        """A copy is a launch of a native kernel, shared among the threads where it is large."""
        if destination.nbytes != source.nbytes:
            raise ArgumentError(
                f"[copy] {source.nbytes} bytes to {destination.nbytes}; sizes must be equal"
            )
        nbytes = source.nbytes
        parts = max(1, min(self.processor.worker_count, nbytes // _COPY_PART)) if nbytes else 0
        function = self.processor.native.copy
        return function, [destination.address, source.address], [nbytes, parts], parts

    def signal(self, signal: Signal, value: int) -> None:
        self._start = True
        self._record(3, (_header(_SIGNAL, 3), signal.address, value))  # type: ignore[attr-defined]

    def wait(self, signal: Signal, value: int) -> None:
        self._start = True
        self._record(3, (_header(_WAIT, 3), signal.address, value))  # type: ignore[attr-defined]

    def timestamp(self, signal: Signal) -> None:
        self._record(2, (_header(_TIMESTAMP, 2), signal.address))  # type: ignore[attr-defined]

    def _record(self, size: int, words: Sequence[int]) -> None:
        with self._lock:
            self._write(size, words)

    def _write(self, size: int, words: Sequence[int]) -> None:
        """Writes a command into the ring. The lock is held."""
        position = self.position
        offset = position & _RING_MASK
        if offset + size > RING_WORDS or position + size > self._limit:
            position = self._make_room(size)
            offset = position & _RING_MASK
        _words(size).pack_into(self.processor.ring, offset * 8, *words)
        # Last: a position stands for commands that are completely written.
        self.position = position + size

    def _make_room(self, size: int) -> int:
        if size > _LARGEST_COMMAND:
            raise ArgumentError(
                f"[launch] a command of {size} words; the queue takes {_LARGEST_COMMAND}"
            )
        unused = RING_WORDS - (self.position & _RING_MASK)
        if size > unused:
            self._wait_for_room(unused)
            header = _header(_SKIP, unused)
            _words(1).pack_into(self.processor.ring, (self.position & _RING_MASK) * 8, header)
            self.position += unused
        self._wait_for_room(size)
        return self.position

    def _wait_for_room(self, size: int) -> None:
        needed = self.position + size - RING_WORDS
        if self.processor.control.head < needed:
            self.processor.submitted = self.position
            self.processor.start(self.position)
            self.processor.wait(needed)
        self._limit = self.processor.control.head + RING_WORDS

    # -- Running -----------------------------------------------------------------------------

    def submit(self) -> int:
        with self._lock:
            return self._submit()

    def _submit(self) -> int:
        position = self.position
        processor = self.processor
        if position != processor.submitted:
            processor.submitted = position
            # The first test is cheap: `_limit` stands for where the processor once was.
            far = position - self._limit > _BACKLOG - RING_WORDS
            if self._start or far and self._is_behind(position):
                self._start = False
                processor.start(position)
        return position

    def _is_behind(self, position: int) -> bool:
        self._limit = self.processor.control.head + RING_WORDS
        return position - self._limit > _BACKLOG - RING_WORDS

    def synchronize(self, position: int | None = None) -> None:
        processor = self.processor
        with self._lock:
            processor.submitted = self.position
            if self._start:
                # The thread that waits does the work: helpers are needed, but no driver.
                self._start = False
                if not processor.threads_started:
                    processor.start_threads()
            target = self.position if position is None else position
        processor.wait(target)
        if processor.control.fault_status:
            self._raise_fault()

    def _raise_fault(self) -> None:
        fault = self.processor.take_fault()
        if fault is not None:
            status, function = fault
            name = self.function_names.get(function, f"at address {function:#x}")
            raise DeviceFault(
                f"[synchronize] kernel {name} failed with status {status}; launches after it, up "
                "to this call, were not executed"
            )

    def is_complete(self, position: int) -> bool:
        return self.processor.control.head >= position

    # -- Captured lists ----------------------------------------------------------------------

    def capture(self, commands: Sequence[Command]) -> CommandList:
        return CpuCommandList(self, commands)

    def call(self, commands: CpuCommandList, changed: Sequence[int]) -> int:
        """Execute a list, of whose words some have changed."""
        with self._lock:
            if not changed:
                pass
            elif self.is_complete(commands.end):
                for slot in changed:
                    commands.memory[slot] = commands.values[slot]
            else:  # a replay that is still to run reads the old words
                self._patch(commands, changed)
            self._write(3, (_CALL_HEADER, commands.address, commands.size))
            self._start |= commands.start
            commands.end = position = self._submit()
            return position

    def _patch(self, commands: CpuCommandList, changed: Sequence[int]) -> None:
        for first in range(0, len(changed), _LARGEST_PATCH):
            slots = changed[first : first + _LARGEST_PATCH]
            words = [_header(_PATCH, 1 + 2 * len(slots), len(slots))]
            for slot in slots:
                words += (commands.address + slot * 8, commands.values[slot])
            self._write(len(words), words)


class CpuCommandList(CommandList):
    """Commands in memory of their own, in the ring's format. Replaying it records one command."""

    def __init__(self, queue: CpuQueue, commands: Sequence[Command]) -> None:
        self._queue = queue
        self._keep: dict[int, object] = {}  # by slot: what must stay alive while it is used
        self._first_argument: list[tuple[int, int, int]] = []
        self.start = False
        words: list[int] = []
        for command in commands:
            self._encode(command, words)
        self.memory = (ctypes.c_int64 * max(1, len(words)))(*words)
        self.address = ctypes.addressof(self.memory)
        self.size = len(words)
        self.values = words  # what the list will hold once all submitted patches are applied
        self.start |= len(words) > _LONG_LIST
        self.end = 0  # the position behind the last replay

    def __del__(self) -> None:
        # A replay may be pending: memory, programs and buffers stay until it is complete.
        if hasattr(self, "memory"):
            self._queue.retire((self.memory, self._keep))

    def _encode(self, command: Command, words: list[int]) -> None:
        self._first_argument.append((0, 0, 0))
        if isinstance(command, (Launch, Copy)):
            if isinstance(command, Launch):
                program: CpuProgram = command.program  # type: ignore[assignment]
                function, parts = program.address, math.prod(command.groups)
                buffers, scalars = command.buffers, list(command.scalars)
                addresses = [buffer.address for buffer in buffers]
                self._keep[~len(words)] = program
            else:
                buffers = (command.destination, command.source)
                function, addresses, scalars, parts = self._queue._copy_arguments(*buffers)
            if parts < 1:
                return
            self.start |= parts > 1
            size = 3 + len(addresses) + len(scalars)
            start = len(words) + 3
            self._first_argument[-1] = (start, len(addresses), len(scalars))
            self._keep.update((start + i, buffer) for i, buffer in enumerate(buffers))
            words += [_header(_LAUNCH, size, parts), function, len(addresses)]
            words += addresses
            words += scalars
            return
        signal: CpuSignal = command.signal  # type: ignore[assignment]
        self._keep[~len(words)] = signal
        if isinstance(command, SignalStore):
            self.start = True
            words += [_header(_SIGNAL, 3), signal.address, command.value]
        elif isinstance(command, SignalWait):
            self.start = True
            words += [_header(_WAIT, 3), signal.address, command.value]
        else:
            words += [_header(_TIMESTAMP, 2), signal.address]

    def buffer_slot(self, command: int, argument: int) -> int:
        start, buffers, _ = self._first_argument[command]
        if not 0 <= argument < buffers:
            raise ArgumentError(f"[slot] buffer {argument} of a command that takes {buffers}")
        return start + argument

    def scalar_slot(self, command: int, argument: int) -> int:
        start, buffers, scalars = self._first_argument[command]
        if not 0 <= argument < scalars:
            raise ArgumentError(f"[slot] value {argument} of a command that takes {scalars}")
        return start + buffers + argument

    def submit(self, patches: Iterable[tuple[int, Buffer | int]] = ()) -> int:
        values = self.values
        changed: list[int] = []
        for slot, value in patches:
            if isinstance(value, int):
                word = value
            else:
                word = value.address
                self._keep[slot] = value
            if values[slot] != word:
                values[slot] = word
                changed.append(slot)
        return self._queue.call(self, changed)
