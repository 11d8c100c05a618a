"""Captured lists of the raw queue: built once in the GPU's memory, then started by one entry."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dovetile.runtime import Command, Copy, Launch, SignalStore, SignalWait
from dovetile_nv.interface import Replay
from dovetile_nv.queue import same_size, sizes
from dovetile_nv.raw import pushbuffer
from dovetile_nv.raw.descriptor import DESCRIPTOR_BYTES, Patcher
from dovetile_nv.raw.stream import unsigned

if TYPE_CHECKING:
    from dovetile_nv.raw.interface import RawInterface, RawProgram
    from dovetile_nv.raw.stream import RawStream


class _Start(NamedTuple):
    """A launch."""

    program: RawProgram
    groups: int
    threads: int
    arguments: Sequence[int]
    number: int
    """Of the first argument that may be replaced; -1 where there is none."""
    early: bool = False
    """Whether it may begin before a launch directly before is complete."""


class RawReplay(Replay):
    """Launches in a row are a chain of descriptors, of which each starts the next: the pushbuffer
    names only the first. Between chains stand the other commands."""

    def __init__(
        self, interface: RawInterface, stream: RawStream, commands: Sequence[Command]
    ) -> None:
        self._interface = interface
        self._stream = stream
        self.slots = []
        self.values = []
        # Where in the block an argument stands, by its number: in maps of it as well.
        self._offsets: dict[int, list[int]] = {}
        steps = [step for command in commands for step in self._steps(command)]
        size = sum(step.program.launch_bytes for step in steps if isinstance(step, _Start))
        self._block = interface.visible.take(size)
        memory = bytearray(size)
        words = self._encode(steps, memory)
        self._bytes = self._block.host_bytes()
        self._bytes[:size] = memory
        self._segment = interface.segments.take(4 * len(words))
        struct.pack_into(f"<{len(words)}I", self._segment.host_bytes(), 0, *words)
        self._count = len(words)

    def __del__(self) -> None:
        if hasattr(self, "_segment"):
            self._interface.visible.give_back(self._block)
            self._interface.segments.give_back(self._segment)

    def _steps(self, command: Command) -> list[_Start | list[int]]:
        """What a command comes down to: launches, and words of other commands."""
        first = len(self.values)
        self.slots.append((first, 0, 0))
        if isinstance(command, Launch):
            arguments = [*(buffer.address for buffer in command.buffers), *command.scalars]
            self.slots[-1] = (first, len(command.buffers), len(command.scalars))
            self.values += arguments
            groups, threads = sizes(command.program, command.groups, command.local)
            program: Any = command.program
            return (
                [_Start(program, groups, threads, arguments, first, command.early)]
                if groups > 0
                else []
            )
        if isinstance(command, Copy):
            self.slots[-1] = (first, 2, 0)
            self.values += [command.destination.address, command.source.address]
            return self._copy(command)
        address: int = command.signal.address  # type: ignore[attr-defined]
        if isinstance(command, SignalStore):
            return [pushbuffer.write(address, unsigned(command.value))]
        if isinstance(command, SignalWait):
            return [pushbuffer.wait(address, unsigned(command.value))]
        return [pushbuffer.write_time(address - 8)]

    def _copy(self, command: Copy) -> list[_Start | list[int]]:
        nbytes = same_size(command.destination, command.source)
        if not nbytes:
            return []
        destination, source = command.destination.address, command.source.address
        steps: list[_Start | list[int]] = []
        for part in self._interface.copies.parts(destination, source, nbytes):
            to, start = destination + part.offset, source + part.offset
            if part.program is None:
                steps.append(pushbuffer.copy(to, start, part.nbytes) + pushbuffer.wait_for_all())
            else:
                program: Any = part.program
                steps.append(_Start(program, part.groups, part.threads, (to, start), -1))
        return steps

    def _encode(self, steps: Sequence[_Start | list[int]], memory: bytearray) -> list[int]:
        patcher = Patcher(self._interface.card.generation.descriptor)
        words: list[int] = []
        at = 0
        previous: int | None = None  # the launch directly before, in the block
        follows = False  # that launch is a command of the list's
        latches = 0
        for step in steps:
            if not isinstance(step, _Start):
                if previous is not None:
                    words += pushbuffer.wait_for_idle()
                words += step
                previous = None
                continue
            program, groups, threads, arguments, number, early = step
            if number >= 0:
                first = at + DESCRIPTOR_BYTES + program.kernel.arguments_offset
                for index in range(len(arguments)):
                    self._offsets[number + index] = [first + 8 * index]
                for offset, found in program.kernel.maps:
                    self._offsets[number + found.argument].append(first + offset)
            self._stream.prepare(program)
            memory[at : at + program.launch_bytes] = program.template
            address = self._block.address + at
            self._stream.fill(program, memory, at, groups, threads, arguments, address)
            if previous is None:
                words += pushbuffer.launch(address)
            else:
                patcher.chain(memory, previous, address)
                if early and follows:
                    latches += 1
                    patcher.early(memory, previous, at, latches)
            previous, follows = at, number >= 0
            at += program.launch_bytes
        return words + pushbuffer.wait_for_idle()

    def run(self, changed: Sequence[int], idle: bool, position: int) -> None:
        for number in changed:
            value = unsigned(self.values[number])
            for offset in self._offsets.get(number, ()):  # none of a launch without workgroups
                if idle:
                    struct.pack_into("<Q", self._bytes, offset, value)
                else:  # a replay that is still to run reads the old words
                    self._stream.write(self._block.address + offset, value)
        self._stream.call(self._segment.address, self._count, position)
