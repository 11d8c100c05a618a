"""The GPU's command queue, the same over the raw queue and over libcuda."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

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
)
from dovetile_nv.interface import RECORD_BYTES, Interface, Pinned, Replay, Timeline

_MOST_THREADS = 1024  # of a workgroup, on all GPUs
_LARGEST_BACKLOG = 1024  # commands that are recorded before they are handed over unasked
_SIGNALS = 4096  # in one piece of pinned memory
_SPIN_SECONDS = 200e-6  # to sleep takes longer than most waits
_PAUSE_SECONDS = 50e-6
_LOOK_SECONDS = 10e-3  # between looks for faults


class NvSignal(Signal):
    """A counter in pinned memory; the GPU writes it, and waits for it, itself."""

    def __init__(self, pool: SignalPool) -> None:
        self.pool = pool
        self._offset = pool.take()
        self._timeline = Timeline(pool.pinned, self._offset)
        self.address = self._timeline.address

    def __del__(self) -> None:
        if hasattr(self, "_offset"):
            self.pool.queue.retire(_Returned(self.pool, self._offset))

    @property
    def value(self) -> int:
        return self._timeline.value

    @value.setter
    def value(self, value: int) -> None:
        self._timeline.value = value


class _Returned:
    """Gives a signal's place back when it is let go of."""

    def __init__(self, pool: SignalPool, offset: int) -> None:
        self._pool, self._offset = pool, offset

    def __del__(self) -> None:
        self._pool.free.append(self._offset)


class SignalPool:
    """Places for signals in pinned memory."""

    def __init__(self, queue: NvQueue, pinned: Pinned, first: int) -> None:
        self.queue = queue
        self.pinned = pinned
        self.free = deque(range(first, pinned.nbytes, RECORD_BYTES))

    def take(self) -> int:
        self.queue.collect_retired()
        try:
            return self.free.popleft()
        except IndexError:
            raise DeviceError(f"[signal] more than {_SIGNALS} signals are in use") from None


class NvQueue(Queue):
    """Records commands into a stream; a counter on the GPU follows the positions."""

    def __init__(self, interface: Interface) -> None:
        super().__init__()
        self.position = 0
        pinned = interface.pin(_SIGNALS * RECORD_BYTES)
        self.timeline = Timeline(pinned, 0)
        self.timeline.wait = self._wait
        self.signals = SignalPool(self, pinned, RECORD_BYTES)
        interface.open_stream(self.timeline)
        self._interface = interface
        self.stream = interface.stream
        self._submitted = 0
        self._lock = threading.RLock()
        # Of what was launched last, for messages about faults.
        self._recent: deque[str] = deque(maxlen=4)
        self._dead: DeviceError | None = None

    def require(self) -> None:
        """Raises DeviceError where the device cannot be used any more."""
        if self._dead is not None:
            raise self._dead.with_traceback(None)

    def abandon(self, error: DeviceError) -> None:
        """Leaves the device to the parent of this process."""
        self._dead = error
        self._lock = threading.RLock()  # a thread that the child does not have may hold the other
        self.timeline.abandon()

    # -- Recording ---------------------------------------------------------------------------

    def launch(
        self,
        program: Program,
        buffers: Sequence[Buffer],
        scalars: Sequence[int] = (),
        groups: Sequence[int] = (1,),
        local: Sequence[int] = (),
    ) -> None:
        count, threads = sizes(program, groups, local)
        if count < 1:
            return
        arguments = [buffer.address for buffer in buffers]
        arguments += scalars
        self.require()
        with self._lock:
            self.stream.launch(program, count, threads, arguments, self.position + 1)  # type: ignore[arg-type]
            self._recent.append(program.name)
            self._advance()

    def copy(self, destination: Buffer, source: Buffer) -> None:
        nbytes = same_size(destination, source)
        if nbytes:
            to, start = destination.address, source.address
            self.require()
            self._admit(destination, source)
            with self._lock:
                self.stream.copy(to, start, nbytes, self.position + 1)
                self._advance()

    def transfer(self, destination: int, source: int, nbytes: int) -> None:
        """Record a copy between addresses, of the GPU's memory or pinned."""
        with self._lock:
            self.stream.transfer(destination, source, nbytes)
            self._advance()

    def _admit(self, *used: Buffer | Signal) -> None:
        """Makes what belongs to other GPUs visible to this one."""
        for thing in used:
            if isinstance(thing, NvSignal) and thing.pool.queue is not self:
                self._interface.admit(thing.pool.pinned.handle)
            elif isinstance(thing, Buffer) and thing.device.queue is not self:
                if (allocation := thing.allocation) is not None:
                    self._interface.admit(allocation.handle)

    def signal(self, signal: Signal, value: int) -> None:
        self._admit(signal)
        with self._lock:
            self.stream.write(signal.address, value)  # type: ignore[attr-defined]
            self._advance()

    def wait(self, signal: Signal, value: int) -> None:
        self._admit(signal)
        with self._lock:
            self.stream.wait(signal.address, value)  # type: ignore[attr-defined]
            self._advance()

    def timestamp(self, signal: Signal) -> None:
        with self._lock:
            self.stream.write_time(signal.address)  # type: ignore[attr-defined]
            self._advance()

    def _advance(self) -> None:
        # Last: a position stands for commands that are completely recorded.
        self.position += 1
        if self.position - self._submitted >= _LARGEST_BACKLOG:
            self.submit()

    # -- Running -----------------------------------------------------------------------------

    def submit(self) -> int:
        with self._lock:
            self.require()
            return self._submit()

    def _submit(self) -> int:
        position = self.position
        if position != self._submitted:
            try:
                self.stream.submit(position)
            except DeviceError:  # as any call after a fault may do
                self._check()
                raise
            self._submitted = position
        return position

    def synchronize(self, position: int | None = None) -> None:
        submitted = self.submit()
        self._wait(submitted if position is None else position)

    def is_complete(self, position: int) -> bool:
        return self.timeline.value >= position

    def _wait(self, position: int) -> None:
        """Waits for a position. Raises DeviceFault where the commands were stopped before."""
        if position > self._submitted:  # what waits for its own commands must have handed them over
            self.submit()
        timeline = self.timeline
        if timeline.value >= position:
            return
        start = time.perf_counter()
        look = start + _LOOK_SECONDS
        while timeline.value < position:
            now = time.perf_counter()
            if now - start > _SPIN_SECONDS:
                time.sleep(_PAUSE_SECONDS)
            if now > look:
                look = now + _LOOK_SECONDS
                self._check()
                if timeline.value >= position:
                    return

    def _check(self) -> None:
        with self._lock:
            fault = self.stream.fault()
            if fault is None:
                return
            text = (
                f"[synchronize] {fault.cause}; the last kernels were "
                f"{', '.join(self._recent) or 'none'}, and what was recorded after the failed one "
                "was not executed"
            )
            self._recent.clear()
            if fault.recoverable:
                self.stream.recover()
                self._submitted = self.position
                self.timeline.value = self.position
            else:
                text += "; the device cannot be used again in this process"
                self._dead = DeviceFault(text)
        raise DeviceFault(text)

    # -- Captured lists ----------------------------------------------------------------------

    def capture(self, commands: Sequence[Command]) -> CommandList:
        return NvCommandList(self, commands, self.build(commands))

    def build(self, commands: Sequence[Command]) -> Replay:
        """A list, ready to be replayed."""
        self.require()
        for command in commands:
            if isinstance(command, Copy):
                self._admit(command.destination, command.source)
            elif not isinstance(command, Launch):
                self._admit(command.signal)
        with self._lock:
            return self.stream.build(commands)

    def replay(self, commands: NvCommandList, changed: Sequence[int]) -> int:
        """Execute a list, of whose arguments some have changed."""
        self.require()
        with self._lock:
            idle = bool(changed) and self.is_complete(commands.end)
            commands.replay.run(changed, idle, self.position + 1)
            self.position += 1
            commands.end = position = self._submit()
            return position


class NvCommandList(CommandList):
    """A prepared list with what it keeps alive."""

    def __init__(self, queue: NvQueue, commands: Sequence[Command], replay: Replay) -> None:
        self._queue = queue
        self._commands = commands
        self._replaced: dict[int, Buffer] = {}
        self._copied = {
            first + i
            for command, (first, _, _) in zip(commands, replay.slots)
            for i in (0, 1)
            if isinstance(command, Copy)
        }
        self.replay = replay
        self.end = 0  # the position behind the last replay

    def __del__(self) -> None:
        # A replay may be pending: memory, programs and buffers stay until it is complete.
        if hasattr(self, "replay"):
            self._queue.retire((self.replay, self._commands, self._replaced))

    def buffer_slot(self, command: int, argument: int) -> int:
        first, buffers, _ = self.replay.slots[command]
        if not 0 <= argument < buffers:
            raise ArgumentError(f"[slot] buffer {argument} of a command that takes {buffers}")
        return first + argument

    def scalar_slot(self, command: int, argument: int) -> int:
        first, buffers, scalars = self.replay.slots[command]
        if not 0 <= argument < scalars:
            raise ArgumentError(f"[slot] value {argument} of a command that takes {scalars}")
        return first + buffers + argument

    def submit(self, patches: Iterable[tuple[int, Buffer | int]] = ()) -> int:
        values = self.replay.values
        changed: list[int] = []
        for slot, value in patches:
            if isinstance(value, int):
                word = value
            else:
                word = value.address
                self._keep(slot, value)
            if values[slot] != word:
                values[slot] = word
                changed.append(slot)
        if changed and not self._copied.isdisjoint(changed):
            changed = self._build_again()
        return self._queue.replay(self, changed)

    def _build_again(self) -> list[int]:
        """Makes the list anew, with other copies; returns what still differs in it."""
        commands: list[Command] = []
        for command, (first, _, _) in zip(self._commands, self.replay.slots):
            if isinstance(command, Copy):
                command = Copy(
                    self._replaced.get(first, command.destination),
                    self._replaced.get(first + 1, command.source),
                )
            commands.append(command)
        before = self.replay
        self._queue.retire((before, self._commands))  # a replay of it may be pending
        self.replay, self._commands, self.end = self._queue.build(commands), commands, 0
        values = self.replay.values
        changed = [slot for slot, value in enumerate(before.values) if values[slot] != value]
        for slot in changed:
            values[slot] = before.values[slot]
        return changed

    def _keep(self, slot: int, buffer: Buffer) -> None:
        before = self._replaced.get(slot)
        if before is not buffer:
            # A pending replay may use the other's memory still. Of this device's own there is no
            # need to care: whoever gets it next comes later in the queue.
            if before is not None and before.device.queue is not self._queue:
                self._queue.retire(before)
            self._replaced[slot] = buffer


def sizes(program: Program, groups: Sequence[int], local: Sequence[int]) -> tuple[int, int]:
    """(workgroups, threads of each) of a launch."""
    count = groups[0] if len(groups) == 1 else math.prod(groups)
    most: int = program.kernel.threads  # type: ignore[attr-defined]
    if not local:
        return count, most or 1
    threads = local[0] if len(local) == 1 else math.prod(local)
    if threads > (most or _MOST_THREADS):
        raise ArgumentError(
            f"[launch] {program.name} with {threads} threads; it takes {most or _MOST_THREADS}"
        )
    return count, threads


def same_size(destination: Buffer, source: Buffer) -> int:
    """The size of both. Raises ArgumentError where they differ."""
    if destination.nbytes != source.nbytes:
        raise ArgumentError(
            f"[copy] {source.nbytes} bytes to {destination.nbytes}; sizes must be equal"
        )
    return source.nbytes
