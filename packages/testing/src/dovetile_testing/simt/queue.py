"""The queue: a thread takes commands in order and runs them.

A thread, and not the caller at `submit`, because commands may wait for signals that the caller or
another device sets later.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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


@dataclass(eq=False)
class HostSignal(Signal):
    """A counter in the memory of this process."""

    value: int = 0  # pyright: ignore[reportIncompatibleMethodOverride]


class SimtQueue(Queue):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._recorded: list[Command] = []
        self._pending: deque[Command] = deque()
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
        self.record(Launch(program, tuple(buffers), tuple(scalars), tuple(groups), tuple(local)))

    def copy(self, destination: Buffer, source: Buffer) -> None:
        self.record(Copy(destination, source))

    def signal(self, signal: Signal, value: int) -> None:
        self.record(SignalStore(signal, value))

    def wait(self, signal: Signal, value: int) -> None:
        self.record(SignalWait(signal, value))

    def timestamp(self, signal: Signal) -> None:
        self.record(Timestamp(signal))

    def record(self, *commands: Command) -> None:
        with self._changed:
            self._recorded.extend(commands)

    def capture(self, commands: Sequence[Command]) -> CommandList:
        return SimtCommandList(self, list(commands))

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
                run(command)
            except Exception as error:
                fault = error
            with self._changed:
                self._fault = self._fault or fault
                self._complete += 1
                self._changed.notify_all()


class SimtCommandList(CommandList):
    """Commands kept as they are; slots are numbered as they are asked for."""

    def __init__(self, queue: SimtQueue, commands: list[Command]) -> None:
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
        self.queue.record(*self.commands)
        return self.queue.submit()


def run(command: Command) -> None:
    """Run one command here and now."""
    from dovetile_testing.simt.device import SimtProgram, memory_at

    if isinstance(command, Launch):
        program = command.program
        assert isinstance(program, SimtProgram)
        program.run(command.buffers, command.scalars, command.groups, command.local)
    elif isinstance(command, Copy):
        target, source = command.destination, command.source
        memory_at(target.address, target.nbytes)[:] = memory_at(source.address, source.nbytes)
    elif isinstance(command, SignalStore):
        command.signal.value = command.value
    elif isinstance(command, SignalWait):
        command.signal.wait(command.value)
    else:
        command.signal.value = time.monotonic_ns()
