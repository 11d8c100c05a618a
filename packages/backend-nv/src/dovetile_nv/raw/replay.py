"""Captured lists of the raw queue: built once in the GPU's memory, then started by one entry."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dovetile.runtime import Command, Copy, Launch, SignalStore, SignalWait
from dovetile_nv.interface import Replay
from dovetile_nv.queue import same_size, sizes
from dovetile_nv.raw import pushbuffer
from dovetile_nv.raw.descriptor import DESCRIPTOR_BYTES, Patcher
from dovetile_nv.raw.stream import unsigned

if TYPE_CHECKING:
    from dovetile_nv.raw.interface import RawInterface, RawProgram
    from dovetile_nv.raw.stream import RawStream


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
        self._offsets: list[int] = []  # of the arguments in the block, by their number
        launches = [_measured(command) for command in commands]
        size = sum(measured[0] for measured in launches)
        self._block = interface.visible.take(size)
        memory = bytearray(size)
        words = self._encode(commands, launches, memory)
        self._block.host_bytes()[:size] = memory
        self._bytes = self._block.host_bytes()
        self._segment = interface.segments.take(4 * len(words))
        struct.pack_into(f"<{len(words)}I", self._segment.host_bytes(), 0, *words)
        self._count = len(words)

    def __del__(self) -> None:
        if hasattr(self, "_segment"):
            self._interface.visible.give_back(self._block)
            self._interface.segments.give_back(self._segment)

    def _encode(
        self,
        commands: Sequence[Command],
        launches: Sequence[tuple[int, int, int]],
        memory: bytearray,
    ) -> list[int]:
        patcher = Patcher(self._interface.card.generation.descriptor)
        words: list[int] = []
        at = 0
        previous: int | None = None  # the launch directly before, in the block
        for command, (size, groups, threads) in zip(commands, launches):
            self.slots.append((len(self.values), 0, 0))
            if not isinstance(command, Launch):
                words += _other(command, previous is not None)
                previous = None
                continue
            arguments = [buffer.address for buffer in command.buffers]
            arguments += command.scalars
            self.slots[-1] = (len(self.values), len(command.buffers), len(command.scalars))
            program: RawProgram = command.program  # type: ignore[assignment]
            first = at + DESCRIPTOR_BYTES + program.kernel.arguments_offset
            self._offsets += range(first, first + 8 * len(arguments), 8)
            self.values += arguments
            if not size:
                self._offsets[self.slots[-1][0] :] = [-1] * len(arguments)
                continue
            self._stream.prepare(program)
            memory[at : at + size] = program.template
            address = self._block.address + at
            self._stream.fill(program, memory, at, groups, threads, arguments, address)
            if previous is None:
                words += pushbuffer.launch(address)
            else:
                patcher.chain(memory, previous, address)
            previous = at
            at += size
        return words + pushbuffer.wait_for_idle()

    def run(self, changed: Sequence[int], idle: bool, position: int) -> None:
        for number in changed:
            offset, value = self._offsets[number], unsigned(self.values[number])
            if offset < 0:
                continue
            if idle:
                struct.pack_into("<Q", self._bytes, offset, value)
            else:  # a replay that is still to run reads the old words
                self._stream.write(self._block.address + offset, value)
        self._stream.call(self._segment.address, self._count, position)


def _measured(command: Command) -> tuple[int, int, int]:
    """(bytes in the block, workgroups, threads) of a launch; zeros for others and empty ones."""
    if not isinstance(command, Launch):
        return 0, 0, 0
    groups, threads = sizes(command.program, command.groups, command.local)
    program: RawProgram = command.program  # type: ignore[assignment]
    return (program.launch_bytes, groups, threads) if groups > 0 else (0, 0, 0)


def _other(command: Command, running: bool) -> list[int]:
    words = pushbuffer.wait_for_idle() if running else []
    if isinstance(command, Copy):
        nbytes = same_size(command.destination, command.source)
        if nbytes:
            words += pushbuffer.copy(command.destination.address, command.source.address, nbytes)
            words += pushbuffer.wait_for_all()
        return words
    address: int = command.signal.address  # type: ignore[union-attr]
    if isinstance(command, SignalStore):
        return words + pushbuffer.write(address, unsigned(command.value))
    if isinstance(command, SignalWait):
        return words + pushbuffer.wait(address, unsigned(command.value))
    return words + pushbuffer.write_time(address - 8)
