"""Recorded commands as command lists: one for each device, joined by signals."""

from __future__ import annotations

from collections.abc import Sequence

from dovetile import profiling
from dovetile.capture.recording import buffers_of, root_of
from dovetile.runtime import (
    Buffer,
    Command,
    CommandList,
    Copy,
    Device,
    Launch,
    Signal,
    SignalStore,
    SignalWait,
    Timestamp,
)
from dovetile.schedule.run import copy

Slot = tuple[int, int]  # number of a part, and the number of a buffer in it


class HostCopy:
    """A copy between devices that do not reach each other's memory: through the host."""

    def __init__(self, destination: Buffer, source: Buffer) -> None:
        self.buffers = [destination, source]

    def submit(self, patches: Sequence[tuple[int, Buffer]]) -> None:
        for slot, buffer in patches:
            self.buffers[slot] = buffer
        copy(*self.buffers)


class Replayable:
    """Commands that were built once; `submit` replays them, with some buffers replaced."""

    def __init__(self, commands: Sequence[tuple[Device, Launch | Copy]]) -> None:
        self.kernels = sum(isinstance(command, Launch) for _, command in commands)
        self._signals: list[Signal] = []
        self._devices = list(dict.fromkeys(device for device, _ in commands))
        self._parts: list[CommandList | HostCopy] = []
        self._starts: set[int] = set()  # parts that begin when everything before is complete
        self._slots: dict[int, list[Slot]] = {}
        # While a profile is recorded: what runs, and signals that take the time before and after.
        self._clocks: list[tuple[str, Signal, Signal]] = []
        self._timed = profiling.current() is not None
        self._build(commands)
        self._only = self._parts[0] if len(self._parts) == 1 else None

    def slots(self, buffer: Buffer) -> tuple[Slot, ...]:
        """Where the commands use a buffer."""
        return tuple(self._slots.get(id(buffer), ()))

    def submit(self, patches: Sequence[tuple[Sequence[Slot], Buffer]]) -> None:
        """Replay. The patches hold from now on."""
        self._submit(patches)
        if self._clocks and (profile := profiling.current()) is not None:
            self._synchronize()
            for name, before, after in self._clocks:
                profile.add_launch(name, (after.value - before.value) / 1e9)

    def _submit(self, patches: Sequence[tuple[Sequence[Slot], Buffer]]) -> None:
        only = self._only
        if only is not None:
            only.submit([(slot, buffer) for slots, buffer in patches for _, slot in slots])
            return
        by_part: list[list[tuple[int, Buffer]]] = [[] for _ in self._parts]
        for slots, buffer in patches:
            for part, slot in slots:
                by_part[part].append((slot, buffer))
        self._synchronize()  # the signals of the replay before are no longer awaited
        for signal in self._signals:
            signal.value = 0
        for number, part in enumerate(self._parts):
            if number in self._starts:
                self._synchronize()
            part.submit(by_part[number])

    def _synchronize(self) -> None:
        for device in self._devices:
            device.wait()

    # -- building ------------------------------------------------------------------------------

    def _build(self, commands: Sequence[tuple[Device, Launch | Copy]]) -> None:
        open_lists: dict[Device, list[Command]] = {}
        used: dict[Device, dict[int, int]] = {}  # when a device last used some memory
        joined: dict[tuple[Device, Device], int] = {}  # up to when the second awaits the first

        def close() -> None:
            self._close(open_lists)
            for table in (open_lists, used, joined):
                table.clear()

        for now, (device, command) in enumerate(commands):
            if isinstance(command, Copy) and not device.reaches(command.source.device):
                close()
                self._add_slots((command.destination, command.source), len(self._parts), (0, 1))
                self._parts.append(HostCopy(command.destination, command.source))
                continue
            if any(type(other) is not type(device) for other in open_lists):
                close()
            mine = open_lists.setdefault(device, [])
            memory = [id(root_of(b)) for b in buffers_of(command)]
            for other, times in used.items():
                last = max((times.get(m, -1) for m in memory), default=-1)
                if other is not device and last > joined.get((other, device), -1):
                    signal = other.new_signal()
                    self._signals.append(signal)
                    open_lists[other].append(SignalStore(signal, 1))
                    mine.append(SignalWait(signal, 1))
                    joined[other, device] = now
            used.setdefault(device, {}).update((m, now) for m in memory)
            mine.append(command)
        close()

    def _close(self, open_lists: dict[Device, list[Command]]) -> None:
        self._starts.add(len(self._parts))
        for device, commands in open_lists.items():
            if self._timed:
                commands = self._with_clocks(device, commands)
            captured = device.queue.capture(commands)
            number = len(self._parts)
            self._parts.append(captured)
            for index, command in enumerate(commands):
                if isinstance(command, (Launch, Copy)):
                    buffers = buffers_of(command)
                    slots = [captured.buffer_slot(index, i) for i in range(len(buffers))]
                    self._add_slots(buffers, number, slots)

    def _with_clocks(self, device: Device, commands: list[Command]) -> list[Command]:
        """The commands with the time taken between them."""
        timed: list[Command] = []
        before = None
        for command in commands:
            if not isinstance(command, (Launch, Copy)):
                before = None
                timed.append(command)
                continue
            if before is None:
                before = device.new_signal()
                timed.append(Timestamp(before))
            after = device.new_signal()
            timed += [command, Timestamp(after)]
            name = command.program.name if isinstance(command, Launch) else "copy"
            self._clocks.append((name, before, after))
            before = after
        return timed

    def _add_slots(self, buffers: Sequence[Buffer], part: int, slots: Sequence[int]) -> None:
        for buffer, slot in zip(buffers, slots):
            self._slots.setdefault(id(buffer), []).append((part, slot))
