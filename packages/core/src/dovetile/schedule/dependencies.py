"""Which kernel must run before which, and an order of all that respects it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dovetile.errors import GraphError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.schedule.ranges import Check


class NeedsCopy(Exception):
    """The content that a buffer had in some state is needed after it has been overwritten.

    The state is the BUFFER for its first content, else the AFTER of the last write to it.
    """

    def __init__(self, state: UOp) -> None:
        super().__init__(state)
        self.state = state


@dataclass(eq=False)
class Kernel:
    """A kernel in the making: its roots (held values and STOREs) and what they touch."""

    roots: list[UOp]
    shape: tuple[int, ...]
    device: str
    ast: UOp | None = None
    reads: dict[UOp, set[UOp | None]] = field(default_factory=dict)
    writes: dict[UOp, UOp] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    reductions: tuple[tuple[int, ...], ...] = ()
    contraction: bool = False
    sequential: bool = False
    # Whether it only copies a node in memory for contractions of the graph to read.
    prepares: bool = False


class Dependencies:
    """Which kernel must run before which: values read after they are written, and buffers
    overwritten after their old content has been read."""

    def __init__(self, kernels: list[Kernel]) -> None:
        self.kernels = kernels
        self.position = {k: i for i, k in enumerate(kernels)}
        self.group: dict[Kernel, Kernel] = {}
        self.members: dict[Kernel, list[Kernel]] = {}
        self.before: dict[Kernel, set[Kernel]] = {k: set() for k in kernels}
        writer: dict[UOp, Kernel] = {}
        by_store: dict[UOp, Kernel] = {}
        stores: dict[UOp, list[UOp]] = {}
        for kernel in kernels:
            for buffer, root in kernel.writes.items():
                if root.op is Op.STORE:
                    by_store[root] = kernel
                    stores.setdefault(buffer, []).append(root)
                else:
                    writer[buffer] = kernel
        for kernel in kernels:
            for buffer, root in kernel.writes.items():
                if root.op is Op.STORE:
                    self._edge(writer.get(buffer), kernel)
                    for earlier in _history(root.src[0]) - {root}:
                        self._edge(by_store.get(earlier), kernel)
            for buffer, states in kernel.reads.items():
                if len(states) > 1:
                    raise NeedsCopy(_oldest(buffer, states))
                state = next(iter(states))
                self._edge(writer.get(buffer), kernel)
                seen = _history(state) if state is not None else set()
                for store in stores.get(buffer, ()):
                    if store in seen:
                        self._edge(by_store[store], kernel)
                    elif store not in kernel.writes.values():
                        self._edge(kernel, by_store[store])

    def _edge(self, first: Kernel | None, then: Kernel) -> None:
        if first is not None and first is not then:
            self.before[then].add(first)

    def sorted(self) -> list[Kernel]:
        """The kernels in an order that respects every dependency; from then on positions are
        those of this order. Raises NeedsCopy where there is none."""
        done: dict[Kernel, None] = {}
        open_: set[Kernel] = set()
        for start in self.kernels:
            stack = [start]
            while stack:
                kernel = stack[-1]
                if kernel in done:
                    stack.pop()
                    continue
                missing = [k for k in self.before[kernel] if k not in done]
                if missing:
                    if kernel in open_ and any(k in open_ for k in missing):
                        raise NeedsCopy(_contested(stack))
                    open_.add(kernel)
                    stack.extend(sorted(missing, key=self.position.__getitem__))
                else:
                    stack.pop()
                    open_.discard(kernel)
                    done[kernel] = None
        self.position = {k: i for i, k in enumerate(done)}
        return list(done)

    def joined(self, group: Kernel, kernel: Kernel) -> None:
        """Notes that a kernel has become part of another."""
        self.group[kernel] = group
        self.members.setdefault(group, [group]).append(kernel)

    def between(self, group: Kernel, kernel: Kernel) -> bool:
        """Whether something outside of `group` must run after it and before `kernel`."""
        first = min(self.position[k] for k in self.members.get(group, [group]))
        stack = [k for k in self.before[kernel] if self.group.get(k, k) is not group]
        seen: set[Kernel] = set()
        while stack:
            found = stack.pop()
            owner = self.group.get(found, found)
            if owner is group:
                return True
            members = self.members.get(owner, [owner])
            if owner in seen or all(self.position[k] < first for k in members):
                continue
            seen.add(owner)
            for member in members:
                stack.extend(self.before[member])
        return False


def _contested(stack: list[Kernel]) -> UOp:
    """A buffer of a dependency cycle, in the state that should be kept aside."""
    for kernel in stack:
        for other in stack:
            for buffer, root in other.writes.items():
                if root.op is Op.STORE and buffer in kernel.reads and kernel is not other:
                    return _oldest(buffer, kernel.reads[buffer])
    raise GraphError("[schedule] kernels depend on each other in a circle")


def _oldest(buffer: UOp, states: Iterable[UOp | None]) -> UOp:
    """The state that fewest writes have led to."""
    state = min(states, key=lambda s: 0 if s is None else len(_history(s)))
    return buffer if state is None else state


def _history(view: UOp) -> set[UOp]:
    """All STOREs that have happened to the buffer of this view."""
    found: set[UOp] = set()
    while view.src:
        if view.op is Op.AFTER:
            found.update(s for s in view.src[1:] if s.op is Op.STORE)
        view = view.src[0]
    return found
