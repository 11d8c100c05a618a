"""What a function makes the devices do, while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dovetile.runtime import Buffer, Copy, Counters, Device, Launch

if TYPE_CHECKING:
    from dovetile.schedule.run import LoadedPlan


@dataclass
class Recording:
    """The commands of a run, in order, with the devices that execute them.

    written: memory that assigns wrote to, by identity.
    results: memory that plans made for what they compute, by identity.
    placed: memory filled from host arrays, with the arrays and an untouched copy of each.
    work: what the commands count for.
    preparations: numbers of commands whose result stays right while what they read stays the same,
    and what each counts for.
    """

    commands: list[tuple[Device, Launch | Copy]] = field(default_factory=list)
    written: dict[int, Buffer] = field(default_factory=dict)
    results: dict[int, Buffer] = field(default_factory=dict)
    placed: dict[int, tuple[Buffer, np.ndarray, np.ndarray]] = field(default_factory=dict)
    work: Counters = field(default_factory=Counters)
    preparations: dict[int, Counters] = field(default_factory=dict)

    def add_plan(
        self, loaded: LoadedPlan, memory: Sequence[Buffer], results: Sequence[Buffer]
    ) -> None:
        """A plan that is being run: all its memory, and what was made for its results."""
        self.results.update((id(b), b) for b in results)
        self.work.add(loaded.work)
        for step, (device, program, places, groups, local, early) in zip(
            loaded.plan.steps, loaded.commands
        ):
            buffers = tuple([memory[place] for place in places])
            if program is None:
                if buffers[0].nbytes:
                    self.commands.append((device, Copy(*buffers)))
            elif groups[0] > 0:
                if step.prepares:
                    work = Counters(1, step.operations, step.nbytes)
                    self.preparations[len(self.commands)] = work
                self.commands.append((device, Launch(program, buffers, (), groups, local, early)))

    def add_written(self, memory: Buffer) -> None:
        """An assign writes to this memory."""
        self.written[id(memory)] = memory

    def add_placed(self, memory: Buffer, array: np.ndarray) -> None:
        """Host data came to this memory."""
        self.placed[id(memory)] = (memory, array, array.copy())

    def replace(self, old: Buffer, new: Buffer) -> None:
        """Let the commands use other memory."""
        swap = {id(old): new}
        for number, (device, command) in enumerate(self.commands):
            if any(buffer is old for buffer in buffers_of(command)):
                buffers = tuple(swap.get(id(b), b) for b in buffers_of(command))
                if isinstance(command, Launch):
                    changed = dataclasses.replace(command, buffers=buffers)
                else:
                    changed = Copy(*buffers)
                self.commands[number] = (device, changed)

    def arrays(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(array, its content when it was placed) of all host data."""
        return [(array, content) for _, array, content in self.placed.values()]


def buffers_of(command: Launch | Copy) -> tuple[Buffer, ...]:
    """The memory that a command reads or writes."""
    if isinstance(command, Launch):
        return command.buffers
    return (command.destination, command.source)


def root_of(buffer: Buffer) -> Buffer:
    """The whole of which a buffer is a view."""
    return buffer.base or buffer
