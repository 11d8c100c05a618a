"""Many threads in lockstep: where they are, how they touch memory, and how they meet.

The kernel's text calls these methods. A scalar is a plain number where all threads have the same,
else an array of one element for each thread; a vector has its lanes along the first axis. The one
thread of a launch that has no other has numbers and vectors without the axis of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetile_testing.simt.memory import Fault, Shadow, View, shadows
from dovetile_testing.simt.operations import host_dtype

_POISON = 0xFF
"""In every byte of fresh memory: floats are NaN, and integers bad indices."""
_TOGETHER = 1 << 16
"""Threads that run at the same time, at most (but whole workgroups): memory is bounded."""


@dataclass(frozen=True)
class Shape:
    """What the launch of a kernel needs to know of it."""

    groups: int
    threads: int
    local_bytes: int
    local_unit: int
    """Bytes of the smallest element of LOCAL memory."""
    buffers: tuple[tuple[str, int, bool], ...]
    """Dtype, elements and whether it is written, of every GLOBAL buffer."""


def launch(
    kernel: Any, shape: Shape, memory: Sequence[np.ndarray], variables: Sequence[int], groups: int
) -> None:
    """Run a kernel: ``kernel(threads, variables)`` for some workgroups after the other.

    Args:
        memory: the bytes of every GLOBAL buffer.
    """
    alone = groups * shape.threads == 1
    spans = [
        (content.ctypes.data, content.nbytes, host_dtype(dtype).itemsize, written and not alone)
        for content, (dtype, _, written) in zip(memory, shape.buffers)
    ]
    shadowed = shadows(spans, "nothing orders the threads of one launch")
    step = max(1, _TOGETHER // shape.threads)
    with np.errstate(all="ignore"):
        for first in range(0, groups, step):
            count = min(step, groups - first)
            kernel(Threads(shape, memory, shadowed, first, count, alone), variables)


class Threads:
    """The threads of some workgroups of a launch."""

    def __init__(
        self, shape: Shape, memory: Sequence[np.ndarray],
        shadowed: Sequence[tuple[Shadow | None, int]], first: int, groups: int, alone: bool,
    ) -> None:  # fmt: skip
        self.shape, self.memory, self.shadowed = shape, memory, shadowed
        count = groups * shape.threads
        self.axis = () if alone else (count,)
        own = 0 if alone else np.arange(count)
        """Position of each thread along the axis."""
        self.own: Any = own
        self.numbers: Any = own + first * shape.threads
        """Number of each thread in the launch."""
        self.group: Any = self.numbers // shape.threads
        self.local: Any = self.numbers % shape.threads
        self.inside: np.ndarray | None = None
        """Threads that still run the loop they are in; None where all do."""
        self.local_stride = -(-shape.local_bytes // 64) * 64
        nbytes = groups * self.local_stride
        self.local_memory = np.full(nbytes, _POISON, np.uint8)
        self.local_shadow = None
        if not alone and nbytes:
            self.local_shadow = Shadow(
                nbytes // shape.local_unit, shape.local_unit, "no barrier is between"
            )

    def name(self, number: int) -> str:
        return f"thread {number % self.shape.threads} of group {number // self.shape.threads}"

    # -- Buffers ---------------------------------------------------------------------------------

    def buffer(self, index: int) -> View:
        """A GLOBAL buffer: the kernel's argument of that index."""
        dtype, size, _ = self.shape.buffers[index]
        content, (shadow, start) = self.memory[index], self.shadowed[index]
        host = host_dtype(dtype)
        elements = content[: len(content) // host.itemsize * host.itemsize].view(host)
        return View(
            f"buffer {index}", elements, min(size, len(elements)), self.name,
            start=start, rows=elements if shadow is None else None, shadow=shadow,
        )  # fmt: skip

    def shared(self, dtype: str, offset: int, size: int) -> View:
        """A LOCAL buffer that begins at this byte of the workgroup's memory."""
        elements = self.local_memory.view(host_dtype(dtype))
        period = self.local_stride // elements.itemsize
        return View(
            f"the LOCAL buffer at byte {offset}", elements, size, self.name,
            base=self.own // self.shape.threads * period + offset // elements.itemsize,
            period=period, shadow=self.local_shadow,
        )  # fmt: skip

    def registers(self, dtype: str, slot: int, size: int) -> View:
        """A REG buffer."""
        host = host_dtype(dtype)
        rows = np.full((size, *self.axis, host.itemsize), _POISON, np.uint8).view(host)[..., 0]
        return View(
            f"REG buffer {slot}", rows.reshape(-1), size, self.name,
            base=self.own, stride=self.axis[0] if self.axis else 1, rows=rows,
        )  # fmt: skip

    # -- Access ----------------------------------------------------------------------------------

    def load(self, view: View, position: Any, gate: Any = True, other: Any = 0) -> Any:
        """Elements; `other` where the gate is false."""
        rows = view.rows
        if rows is not None and gate is True and self.inside is None and type(position) is int:
            view.check(position, self.numbers)
            return rows[position].copy()
        active = self._active(gate)
        if active is False:
            return other
        if active is True and view.shadow is None:
            view.check(position, self.numbers)
            return view.elements[position * view.stride + view.base]
        active = np.broadcast_to(
            active, np.broadcast_shapes(*map(np.shape, (active, position)), self.axis)
        )
        where, threads = self._touched(view, position, active)
        if view.shadow is not None:
            view.shadow.read(view, where, threads)
        result = np.empty(active.shape, view.elements.dtype)
        result[...] = other
        result[active] = view.elements[where]
        return result

    def store(self, view: View, position: Any, value: Any, gate: Any = True) -> None:
        """Set elements, where the gate is true."""
        rows = view.rows
        if rows is not None and gate is True and self.inside is None and type(position) is int:
            view.check(position, self.numbers)
            rows[position] = value
            return
        active = self._active(gate)
        if active is False:
            return
        if active is True and view.shadow is None:
            view.check(position, self.numbers)
            view.elements[position * view.stride + view.base] = value
            return
        active = self._spread(active, position, value)
        where, threads = self._touched(view, position, active)
        values = np.broadcast_to(value, active.shape)[active].astype(view.elements.dtype)
        if view.shadow is None:
            view.elements[where] = values
        else:
            view.shadow.write(view, where, threads, values)

    def _active(self, gate: Any) -> Any:
        """The gate, for threads that are in the loop: True, False, or an array of both."""
        if self.inside is not None:
            gate = self.inside & gate
        if isinstance(gate, np.ndarray):
            return True if gate.all() else gate
        return bool(gate)

    def _spread(self, active: Any, *others: Any) -> np.ndarray:
        """`active` for every thread, and every lane of the others."""
        shapes = map(np.shape, (active, *others))
        return np.broadcast_to(active, np.broadcast_shapes(*shapes, self.axis))

    def _touched(self, view: View, position: Any, active: np.ndarray) -> tuple[Any, Any]:
        """Which of the view's elements are touched, and by whom, one after another."""
        touched = np.broadcast_to(position, active.shape)[active]
        threads = np.broadcast_to(self.numbers, active.shape)[active]
        view.check(touched, threads)
        return touched * view.stride + np.broadcast_to(view.base, active.shape)[active], threads

    # -- Control ---------------------------------------------------------------------------------

    def loop(self, count: Any) -> Iterable[int]:
        """The steps of a loop, of which some threads may make more than others."""
        return self._divergent(count) if isinstance(count, np.ndarray) else range(count)

    def _divergent(self, count: np.ndarray) -> Iterator[int]:
        outside, step = self.inside, 0
        while True:
            inside = np.broadcast_to(count > step, self.axis)
            inside = inside if outside is None else inside & outside
            if not inside.any():
                break
            self.inside = None if inside.all() else inside
            yield step
            step += 1
        self.inside = outside

    def barrier(self) -> None:
        """The threads of each workgroup meet: nothing before is a race with anything after.

        Raises Fault where only some of a workgroup arrive.
        """
        if self.local_shadow is None and self.inside is None:
            return
        inside = np.ones(self.axis, bool) if self.inside is None else self.inside
        arrived = inside.reshape(-1, self.shape.threads)
        met = np.asarray(arrived.any(axis=1))
        missing = met[:, None] & ~arrived
        if missing.any():
            number = int(np.argmax(missing))
            there = int(np.argmax(arrived[number // self.shape.threads]))
            raise Fault(
                f"{self.name(int(self.numbers[number]))} has left the loop in which thread "
                f"{there} waits for it at a barrier"
            )
        if self.local_shadow is not None:
            self.local_shadow.forget(met)

    def shuffle(self, value: Any, mask: int) -> Any:
        """The value of the thread whose index differs in the bits of `mask`."""
        partner = self.local ^ mask
        value = np.broadcast_to(value, (*np.shape(value)[:-1], *self.axis))
        where = self.own - self.local + partner
        if self.inside is not None and (self.inside & ~self.inside[where]).any():
            number = int(np.argmax(self.inside & ~self.inside[where]))
            raise Fault(
                f"{self.name(int(self.numbers[number]))} wants a value of thread "
                f"{partner[number]}, which has left the loop"
            )
        return value[..., where]

    # -- Vectors ---------------------------------------------------------------------------------

    def lanes(self, position: Any, count: int) -> Any:
        """Neighbouring positions, one for each lane."""
        return position + np.arange(count).reshape(count, *(1 for _ in self.axis))

    def repeat(self, value: Any, count: int) -> np.ndarray:
        """A vector with a scalar in every lane."""
        return np.broadcast_to(value, (count, *self.axis))

    def join(self, *values: Any) -> np.ndarray:
        """A vector of scalars."""
        return np.stack([np.broadcast_to(value, self.axis) for value in values])

    def concatenate(self, *vectors: np.ndarray) -> np.ndarray:
        """A vector of the lanes of several."""
        return np.concatenate([np.broadcast_to(v, (len(v), *self.axis)) for v in vectors])
