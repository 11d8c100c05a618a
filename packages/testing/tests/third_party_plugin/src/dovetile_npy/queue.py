"""The queue: a thread takes commands in order and runs them.

A thread, and not the caller at `submit`, because commands may wait for signals that the caller or
another device sets later.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from dovetile.errors import DeviceFault
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
    Timestamp,
)


class HostSignal(Signal):
    """A counter in the memory of this process."""

    def __init__(self) -> None:
        self._value = 0

    @property
    def value(self) -> int:
        return self._value

    @value.setter
    def value(self, value: int) -> None:
        self._value = value


class NumpyQueue(Queue):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._recorded: list[Callable[[], None]] = []
        self._pending: deque[Callable[[], None]] = deque()
        self._submitted = 0
        self._complete = 0
        self._fault: Exception | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def position(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._submitted + len(self._recorded)

    # -- Recording ---------------------------------------------------------------------------

    def launch(
        self,
        program: Program,
        buffers: Sequence[Buffer],
        scalars: Sequence[int] = (),
        groups: Sequence[int] = (1,),
        local: Sequence[int] = (),
    ) -> None:
        command = Launch(program, tuple(buffers), tuple(scalars), tuple(groups), tuple(local))
        self.record(command)

    def copy(self, destination: Buffer, source: Buffer) -> None:
        self.record(Copy(destination, source))

    def signal(self, signal: Signal, value: int) -> None:
        self.record(SignalStore(signal, value))

    def wait(self, signal: Signal, value: int) -> None:
        self.record(SignalWait(signal, value))

    def timestamp(self, signal: Signal) -> None:
        self.record(Timestamp(signal))

    def record(self, command: Command) -> None:
        with self._changed:
            self._recorded.append(lambda: run(command))

    def capture(self, commands: Sequence[Command]) -> CommandList:
        return NumpyCommandList(self, list(commands))

    # -- Running -----------------------------------------------------------------------------

    def submit(self) -> int:
        with self._changed:
            self._pending.extend(self._recorded)
            self._submitted += len(self._recorded)
            self._recorded.clear()
            # After a fork the thread is there no more.
            if self._pending and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._submitted

    def synchronize(self, position: int | None = None) -> None:
        submitted = self.submit()
        with self._changed:
            self._changed.wait_for(lambda: self._complete >= (position or submitted))
            fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def is_complete(self, position: int) -> bool:
        return self._complete >= position

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending)
                command = self._pending.popleft()
            fault = None
            try:
                command()
            except Exception as error:
                fault = error
            with self._changed:
                self._fault = self._fault or fault
                self._complete += 1
                self._changed.notify_all()


class NumpyCommandList(CommandList):
    """Commands kept as they are; slots are numbered as they are asked for."""

    def __init__(self, queue: NumpyQueue, commands: list[Command]) -> None:
        self.queue = queue
        self.commands = commands
        self.slots: list[tuple[int, str, int]] = []

    def buffer_slot(self, command: int, argument: int) -> int:
        self.slots.append((command, "buffers", argument))
        return len(self.slots) - 1

    def scalar_slot(self, command: int, argument: int) -> int:
        self.slots.append((command, "scalars", argument))
        return len(self.slots) - 1

    def submit(self, patches: Iterable[tuple[int, Buffer | int]] = ()) -> int:
        for slot, value in patches:
            index, field, argument = self.slots[slot]
            launch = self.commands[index]
            assert isinstance(launch, Launch)
            arguments = list(getattr(launch, field))
            arguments[argument] = value
            self.commands[index] = replace(launch, **{field: tuple(arguments)})
        for command in self.commands:
            self.queue.record(command)
        return self.queue.submit()


def run(command: Command) -> None:
    """Run one command here and now."""
    from dovetile_npy.device import NumpyProgram, memory_at

    if isinstance(command, Launch):
        program = command.program
        assert isinstance(program, NumpyProgram)
        buffers = [memory_at(b.address, b.nbytes) for b in command.buffers]
        try:
            with np.errstate(all="ignore"):
                for part in range(math.prod(command.groups)):
                    program.function(buffers, command.scalars, part)
        except Exception as error:
            raise DeviceFault(
                f"[launch] kernel {program.name!r} failed: {type(error).__name__}: {error}"
            ) from error
    elif isinstance(command, Copy):
        target, source = command.destination, command.source
        memory_at(target.address, target.nbytes)[:] = memory_at(source.address, source.nbytes)
    elif isinstance(command, SignalStore):
        command.signal.value = command.value
    elif isinstance(command, SignalWait):
        command.signal.wait(command.value)
    else:
        command.signal.value = time.monotonic_ns()
