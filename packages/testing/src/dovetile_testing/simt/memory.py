"""Memory as threads see it, and who has used which part of it since they last met."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

NOBODY = -1


class Fault(Exception):
    """What a kernel did wrong, in words."""


class Users:
    """Up to two different threads that used each unit of memory; NOBODY where there are none.

    Two are enough to know, for any thread, whether there is another than itself.
    """

    def __init__(self, units: int) -> None:
        self.units = units
        self.first: np.ndarray | None = None
        self.second: np.ndarray | None = None

    def add(self, units: np.ndarray, threads: np.ndarray) -> None:
        if self.first is None or self.second is None:
            self.first, self.second = (np.full(self.units, NOBODY, np.int32) for _ in range(2))
        new = self.first[units] == NOBODY
        self.first[units[new]] = threads[new]
        late = self.first[units] != threads
        self.second[units[late]] = threads[late]

    def others(self, units: np.ndarray, threads: np.ndarray) -> np.ndarray | None:
        """For each unit a user other than the thread, or NOBODY; None where there is no user."""
        if self.first is None or self.second is None:
            return None
        first = self.first[units]
        return np.where(first != threads, first, self.second[units])

    def forget(self, rows: np.ndarray) -> None:
        """Forget the users in these of as many equal rows of the memory as `rows` has elements."""
        for users in (self.first, self.second):
            if users is not None:
                users.reshape(len(rows), -1)[rows] = NOBODY


class Shadow:
    """Finds races: uses of the same units by several threads that nothing puts in order."""

    def __init__(self, units: int, unit: int, ordering: str) -> None:
        self.unit = unit
        """Bytes of a unit."""
        self.ordering = ordering
        """What was missing, for the message."""
        self.readers, self.writers = Users(units), Users(units)

    def forget(self, rows: np.ndarray) -> None:
        self.readers.forget(rows)
        self.writers.forget(rows)

    def read(self, view: View, where: np.ndarray, threads: np.ndarray) -> None:
        """Note that threads read elements. Raises Fault where another has written one."""
        units, owners = self._units(view, where, threads)
        self._check(view, where, owners, self.writers.others(units, owners), None, "wrote", "reads")
        self.readers.add(units, owners)

    def write(self, view: View, where: np.ndarray, threads: np.ndarray, values: np.ndarray) -> None:
        """Store, one value by each thread.

        Raises Fault where another thread has read the element, or stored another value there.
        """
        bits = np.ascontiguousarray(values).view(view.bits.dtype)
        units, owners = self._units(view, where, threads)
        changed = view.bits[where] != bits
        self._check(view, where, owners, self.readers.others(units, owners), None, "read", "writes")
        earlier = self.writers.others(units, owners)
        self._check(view, where, owners, earlier, changed, "wrote", "writes another value to")
        self.writers.add(units, owners)
        view.bits[where] = bits
        # Of those that store to one element at the same time, one prevails.
        lost = view.bits[where] != bits
        rivals = self.writers.others(units, owners)
        self._check(view, where, owners, rivals, lost, "wrote", "writes another value to")

    def _units(
        self, view: View, where: np.ndarray, threads: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The units of elements, and the thread of each: several rows where elements are larger."""
        count = view.elements.itemsize // self.unit
        units = view.start // self.unit + where * count
        if count == 1:
            return units, threads
        units = np.arange(count)[:, None] + units
        return units, np.broadcast_to(threads, units.shape)

    def _check(
        self, view: View, where: np.ndarray, threads: np.ndarray, others: np.ndarray | None,
        matters: np.ndarray | None, did: str, does: str,
    ) -> None:  # fmt: skip
        """Raise Fault where there is another thread, and it matters."""
        if others is None:
            return
        races = others != NOBODY if matters is None else (others != NOBODY) & matters
        if races.any():
            at = np.unravel_index(int(np.argmax(races)), races.shape)
            element, name = view.element(int(where[at[-1]])), view.thread_name
            raise Fault(
                f"race for element {element} of {view.name}: {name(int(others[at]))} {did} it, "
                f"{name(int(threads[at]))} {does} it, and {self.ordering}"
            )


class View:
    """A buffer as all threads of a launch see it."""

    def __init__(
        self, name: str, elements: np.ndarray, size: int, thread_name: Callable[[int], str], *,
        base: Any = 0, stride: int = 1, period: int = 0, start: int = 0,
        rows: np.ndarray | None = None, shadow: Shadow | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.elements = elements
        self.bits = elements.view(f"u{elements.itemsize}")
        self.size = size
        """Elements that a thread may touch."""
        self.thread_name = thread_name
        self.base, self.stride = base, stride
        """A thread's element i is ``elements[i * stride + base]``; `base` may differ by thread."""
        self.period = period
        """Elements after which the memory of the next workgroup begins."""
        self.start = start
        """Byte of the shadowed memory at which `elements` begin."""
        self.rows = rows
        """The element i of all threads, for an i they share; None where that must be found out."""
        self.shadow = shadow

    def element(self, where: int) -> int:
        """The index in the kernel's buffer of one of `elements`."""
        first = int(np.min(self.base)) % self.period if self.period else 0
        return (where % self.period if self.period else where) - first

    def check(self, position: Any, threads: Any) -> None:
        """Raises Fault where one of these positions is out of bounds; `threads` touch them."""
        if np.size(position) and (np.min(position) < 0 or np.max(position) >= self.size):
            position, threads = np.broadcast_arrays(position, threads)
            outside = (position < 0) | (position >= self.size)
            at = np.unravel_index(int(np.argmax(outside)), outside.shape)
            raise Fault(
                f"element {position[at]} of {self.name}, which has {self.size}, is out of bounds; "
                f"{self.thread_name(int(threads[at]))} touches it"
            )


def shadows(
    spans: Sequence[tuple[int, int, int, bool]], ordering: str
) -> list[tuple[Shadow | None, int]]:
    """The shadow of every buffer that is written, or shares memory with one; and where in it the
    buffer begins.

    Args:
        spans: address, bytes, bytes of an element, whether it is written.
    """
    found: list[tuple[Shadow | None, int]] = [(None, 0)] * len(spans)
    order = sorted((i for i in range(len(spans)) if spans[i][1]), key=lambda i: spans[i][0])
    while order:
        together, end = [order[0]], sum(spans[order[0]][:2])
        while len(together) < len(order) and spans[order[len(together)]][0] < end:
            together.append(order[len(together)])
            end = max(end, sum(spans[together[-1]][:2]))
        order = order[len(together) :]
        if any(spans[i][3] for i in together):
            first = spans[together[0]][0]
            unit = math.gcd(
                *(spans[i][0] - first for i in together), *(spans[i][2] for i in together)
            )
            shadow = Shadow(-(-(end - first) // unit), unit, ordering)
            for i in together:
                found[i] = shadow, spans[i][0] - first
    return found
