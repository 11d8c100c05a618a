"""One captured step: what must hold for a replay, and the replay."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from dovetile import schedule
from dovetile.capture.lists import Replayable, Slot
from dovetile.capture.results import Fresh, Place
from dovetile.capture.surroundings import Surroundings
from dovetile.ir.uop import UOp
from dovetile.profiling import stage
from dovetile.runtime import Buffer, Counters
from dovetile.runtime.counting import total
from dovetile.tensor import base, renewal
from dovetile.tensor.base import TensorBase


@dataclass
class Input:
    """How a step uses an argument.

    fixed: the only memory it may have, because others share it or it gathers a gradient; None
    where any will do. tensor: then the only Tensor it may be, where that matters.
    """

    slots: tuple[Slot, ...]
    memory: Buffer
    is_written: bool
    fixed: Buffer | None = None
    tensor: TensorBase | None = None


@dataclass
class Owner:
    """A Tensor whose memory the step uses, and the node it was last seen with."""

    tensor: weakref.ref[TensorBase]
    node: UOp


@dataclass
class State:
    """A place in the surroundings that the step sets to a Tensor or to None.

    takes_any: the step may begin with any Tensor there; it drops it unread.
    """

    index: int
    value: TensorBase | None
    set: Callable[[Any], None]
    takes_any: bool


Result = Callable[[Sequence[TensorBase], Sequence[Place]], Any]


@dataclass(repr=False, eq=False)
class Step:
    """A captured step. Made by `build`."""

    commands: Replayable
    inputs: list[Input]
    owners: list[tuple[Buffer, list[Owner]]]
    """The Tensors that show each piece of memory from before the capture."""
    used: dict[int, Buffer]
    """Memory that no argument may lie in, by identity: its own, and that of its surroundings."""
    written: list[weakref.ref[TensorBase]]
    """Tensors whose memory a replay changes."""
    surroundings: Surroundings
    expected: list[Any]
    """What the surroundings must hold at a replay."""
    states: list[State]
    arrays: list[tuple[np.ndarray, np.ndarray]]
    """Arrays of the user's whose values went in, with these values."""
    fresh: list[tuple[Fresh, tuple[Slot, ...]]]
    """Results in memory of their own, and where the commands use it."""
    work: Counters
    """What a replay counts for."""
    result: Result
    """Builds the function's result of the inputs and of where the fresh results lie."""
    preparation: Replayable | None
    """What must be done again only where the memory that the step uses has changed."""
    is_prepared: bool = True
    replays: int = 0
    is_dead: bool = False
    """Whether it can never be replayed again, as Tensors that it read are gone."""
    _seen_runs: int = -1
    _seen_tensors: int = -1
    _memory: Sequence[Buffer] = ()
    """What the commands use of the arguments, and for the results; empty where unknown."""
    _places: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._memory = [role.memory for role in self.inputs]
        self._writes_inputs = any(role.is_written for role in self.inputs)

    @property
    def kernels(self) -> int:
        """Number of launches in a replay."""
        return self.commands.kernels

    def __repr__(self) -> str:
        return f"<step of {self.kernels} kernels, replayed {self.replays} times>"

    # -- may it be replayed? -------------------------------------------------------------------

    def mismatch(self, tensors: Sequence[TensorBase], memory: Sequence[Buffer]) -> str | None:
        """None where a replay does what the function would do; else the reason why it does not."""
        for number, (role, buffer) in enumerate(zip(self.inputs, memory)):
            if role.fixed is None:
                if id(buffer) in self.used:
                    return f"tensor argument {number} shares memory with what the function uses"
            elif role.fixed is not buffer:
                return (
                    f"tensor argument {number}, whose memory other tensors share, has other memory "
                    "than before; pass a clone()"
                )
            elif role.tensor is not None and role.tensor is not tensors[number]:
                return f"tensor argument {number}, which gathers a gradient, is another one"
        return self.changed()

    def changed(self) -> str | None:
        """The same about everything beside the arguments."""
        for group in self.owners:
            for owner in group[1]:
                tensor = owner.tensor()
                if tensor is None or tensor.uop is not owner.node:
                    reason = self._owners_changed(*group)
                    if reason is not None:
                        return reason
                    break
        values = self.surroundings.read()
        expected = self.expected
        if len(values) != len(expected) or not all(map(operator.is_, values, expected)):
            reason = self._surroundings_changed(values)
            if reason is not None:
                return reason
        for array, content in self.arrays:
            if not np.array_equal(array, content, equal_nan=array.dtype.kind == "f"):
                return "a NumPy array that the function makes a tensor of has changed"
        return None

    def _owners_changed(self, memory: Buffer, owners: list[Owner]) -> str | None:
        for owner in list(owners):
            tensor = owner.tensor()
            if tensor is None:
                owners.remove(owner)
            elif tensor.uop is not owner.node:
                if schedule.memory_of(tensor.uop) is not memory:
                    return f"a tensor of shape {tensor.shape} that it uses lies in other memory"
                owner.node = tensor.uop
                self.is_prepared = False
        if not owners:
            self.is_dead = True
            return "a tensor that it uses was replaced"
        return None

    def _surroundings_changed(self, values: list[Any]) -> str | None:
        if len(values) != len(self.expected):
            return self.surroundings.same_sizes() or "what it refers to has changed"
        any_tensor = {state.index for state in self.states if state.takes_any}
        for index, (now, then) in enumerate(zip(values, self.expected)):
            if now is then or index in any_tensor and isinstance(now, TensorBase):
                continue
            if is_plain(now) and type(now) is type(then) and repr(now) == repr(then):
                self.expected[index] = now
                continue
            return f"{self.surroundings.label(index)} changed from {_short(then)} to {_short(now)}"
        return None

    # -- replay --------------------------------------------------------------------------------

    def replay(self, tensors: Sequence[TensorBase], memory: Sequence[Buffer]) -> Any:
        """Does again what was recorded. The lists are the arguments' Tensors and their memory."""
        written = [t for r in self.written if (t := r()) is not None] if self.written else []
        if self._writes_inputs:
            written += [t for t, role in zip(tensors, self.inputs) if role.is_written]
        if written:
            self._save_readers(written)
        places = [fresh.take() for fresh, _ in self.fresh]
        with stage("replay"):
            if self.preparation is not None and not self.is_prepared:
                self.preparation.submit(())
                self.is_prepared = True
                schedule.count_run()
            if memory is self._memory and places == self._places:
                self.commands.submit(())
            else:
                self._submit(memory, places)
        if written:
            self._renew(written)
        for state in self.states:
            state.set(state.value)
        self.replays += 1
        total.add(self.work)
        result = self.result(tensors, places)
        self._seen_tensors = base._live.added
        return result

    def _submit(self, memory: Sequence[Buffer], places: list[Place]) -> None:
        """Replays the commands, and tells them what lies elsewhere than at the replay before."""
        patches: list[tuple[Sequence[Slot], Buffer]] = []
        for role, now, then in zip_longest(self.inputs, memory, self._memory):
            if now is not then and role.slots:
                patches.append((role.slots, now))
        for (_, slots), now, then in zip_longest(self.fresh, places, self._places):
            if now is not then and slots:
                patches.append((slots, now.memory))
        self._memory, self._places = (), []  # in case it fails half-way
        self.commands.submit(patches)
        self._memory, self._places = memory, places

    def _save_readers(self, written: list[TensorBase]) -> None:
        """Computes lazy values that read what is about to be overwritten."""
        if self._seen_tensors == base._live.added and self._seen_runs == schedule.runs():
            return
        buffers = {t._buffer for t in written if t._buffer is not None}
        readers = schedule.pending_readers(buffers)
        if readers:
            schedule.realize(readers)

    def _renew(self, written: list[TensorBase]) -> None:
        """Sees that nothing computed from the old content is taken for the same of the new."""
        if self._seen_runs == schedule.runs() and not self._writes_inputs:
            return
        renewal.renew(written)
        self._seen_runs = schedule.runs()
        for _, owners in self.owners:
            for owner in owners:
                tensor = owner.tensor()
                if tensor is not None:
                    owner.node = tensor.uop


def is_plain(value: object) -> bool:
    """Whether a Python value is equal to another that looks alike."""
    return isinstance(value, (bool, int, float, complex, str, bytes, np.generic))


def _short(value: object) -> str:
    if isinstance(value, TensorBase):
        return f"a tensor of shape {value.shape}"
    text = repr(value) if is_plain(value) or value is None else f"one {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "..."
