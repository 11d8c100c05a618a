"""Commands of the raw queue: pushbuffers, launch descriptors and constant banks."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from dovetile.runtime import Command
from dovetile_nv.interface import Fault, NvProgram, Replay, Stream, Timeline
from dovetile_nv.raw import driver_abi as abi
from dovetile_nv.raw import pushbuffer
from dovetile_nv.raw.channel import Channel
from dovetile_nv.raw.descriptor import DESCRIPTOR_BYTES, Patcher
from dovetile_nv.raw.faults import Debugger
from dovetile_nv.raw.ring import Ring

if TYPE_CHECKING:
    from dovetile_nv.raw.interface import RawInterface, RawProgram

_RING_BYTES = 4 << 20
_ARGUMENTS_WINDOW = 0x198  # where in the first constant bank Hopper's code finds its arguments
SHARED_WINDOW = 0x7293 << 32
LOCAL_WINDOW = 0x7294 << 32
"""Where generic addresses mean shared and local memory: beyond all that is mapped."""


@cache
def words(count: int) -> struct.Struct:
    """So many 64-bit words."""
    return struct.Struct(f"<{count}Q")


def unsigned(value: int) -> int:
    return value & 0xFFFFFFFFFFFFFFFF


class RawStream(Stream):
    """Launches write a descriptor and a constant bank into a ring in the GPU's memory, and name the
    descriptor in the pushbuffer."""

    def __init__(self, interface: RawInterface, timeline: Timeline) -> None:
        self._interface = interface
        self._timeline = timeline
        self._patcher = Patcher(interface.card.generation.descriptor)
        self._ring = interface.visible.take(_RING_BYTES)
        self._ring_bytes = self._ring.host_bytes()
        self._places = Ring(_RING_BYTES)
        self._running = False  # whether launches come before what is recorded next
        self._local_bytes = 0
        self._local: tuple[int, int] | None = None  # where local memory lies, and its size
        self._open()

    def _open(self) -> None:
        card = self._interface.card
        generation = card.generation
        self.channel = Channel(
            card,
            abi.NV2080_ENGINE_TYPE_GRAPHICS,
            {
                pushbuffer.COMPUTE: generation.compute_class,
                pushbuffer.COPY: generation.copy_class,
            },
        )
        self._debugger = Debugger(card, self.channel)
        self._words = pushbuffer.windows(SHARED_WINDOW, LOCAL_WINDOW)
        if self._local is not None:
            self._words += pushbuffer.local_memory(*self._local)

    # -- Recording ---------------------------------------------------------------------------

    def launch(
        self, program: NvProgram, groups: int, threads: int, arguments: Sequence[int], position: int
    ) -> None:
        raw: RawProgram = program  # type: ignore[assignment]
        self.prepare(raw)
        size = raw.launch_bytes
        start = self._places.take(size, position, self._timeline.wait)
        memory = raw.template
        self.fill(raw, memory, 0, groups, threads, arguments, self._ring.address + start)
        self._ring_bytes[start : start + size] = memory
        if self._running:
            self._words += _WAIT_FOR_IDLE
        self._running = True
        self._words += pushbuffer.launch(self._ring.address + start)

    def fill(
        self,
        program: RawProgram,
        memory: bytearray,
        at: int,
        groups: int,
        threads: int,
        arguments: Sequence[int],
        address: int,
    ) -> None:
        """Sets what a launch sets in a copy of the program's template at `at`, for `address`."""
        bank = at + DESCRIPTOR_BYTES
        self._patcher.set_launch(memory, at, groups, threads, address + DESCRIPTOR_BYTES)
        where = bank + program.kernel.arguments_offset
        try:
            words(len(arguments)).pack_into(memory, where, *arguments)
        except struct.error:  # negative values of variables
            words(len(arguments)).pack_into(memory, where, *map(unsigned, arguments))
        if program.kernel.maps:
            arguments_address = address + DESCRIPTOR_BYTES + program.kernel.arguments_offset
            struct.pack_into("<Q", memory, bank + _ARGUMENTS_WINDOW, arguments_address)
            for offset, found in program.kernel.maps:
                struct.pack_into("<Q", memory, where + offset, arguments[found.argument])

    def prepare(self, program: RawProgram) -> None:
        """Does what must come before a program's launch, of all programs loaded meanwhile too."""
        if program.local_bytes > self._local_bytes:
            # Powers of two: the memory from before stays taken, and so all of it at most doubles.
            self._local_bytes = 1 << (program.local_bytes - 1).bit_length()
            self._local = self._interface.local_memory(self._local_bytes)
            self._idle()
            self._words += pushbuffer.local_memory(*self._local)
        if self._interface.stale_caches:
            self._interface.stale_caches = False
            self._words += pushbuffer.invalidate_caches()

    def copy(self, destination: int, source: int, nbytes: int, position: int) -> None:
        for part in self._interface.copies.parts(destination, source, nbytes):
            to, start = destination + part.offset, source + part.offset
            if part.program is None:
                self.transfer(to, start, part.nbytes)
            else:
                program: RawProgram = part.program  # type: ignore[assignment]
                self.launch(program, part.groups, part.threads, (to, start), position)

    def transfer(self, destination: int, source: int, nbytes: int) -> None:
        self._idle()
        self._words += pushbuffer.copy(destination, source, nbytes)
        self._words += pushbuffer.wait_for_all()

    def write(self, address: int, value: int) -> None:
        self._words += pushbuffer.write(address, unsigned(value))
        self._running = False

    def wait(self, address: int, value: int) -> None:
        self._words += pushbuffer.wait(address, unsigned(value))

    def write_time(self, address: int) -> None:
        self._words += pushbuffer.write_time(address - 8)
        self._running = False

    def _idle(self) -> None:
        if self._running:
            self._words += _WAIT_FOR_IDLE
            self._running = False

    # -- Running -----------------------------------------------------------------------------

    def submit(self, position: int) -> None:
        self.write(self._timeline.address, position)
        self._add(position)
        self.channel.start()

    def call(self, address: int, count: int, position: int) -> None:
        """Executes `count` words at an address of the GPU after what is recorded, once it is
        submitted."""
        self._idle()
        self._add(position)
        self.channel.add(address, count, position, self._timeline.wait)

    def _add(self, position: int) -> None:
        words, self._words = self._words, []
        if words:
            self.channel.add_words(words, position, self._timeline.wait)

    def fault(self) -> Fault | None:
        code = self.channel.error
        return Fault(self._debugger.describe(code), True) if code else None

    def recover(self) -> None:
        self._debugger.close()
        self.channel.close()
        self._places = Ring(_RING_BYTES)
        self._running = False
        self._open()

    def build(self, commands: Sequence[Command]) -> Replay:
        from dovetile_nv.raw.replay import RawReplay

        return RawReplay(self._interface, self, commands)


_WAIT_FOR_IDLE = pushbuffer.wait_for_idle()
