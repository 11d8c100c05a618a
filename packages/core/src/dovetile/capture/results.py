"""Memory of a captured function's results: used again once nobody has the result any more.

A replay whose results lie where those of the replay before lay changes no argument of a command.
A result is the user's for as long as anything refers to it: a Tensor, a graph that was built on it,
an array that shares its memory. All of these hold a node or the Buffer, so that the counts of
references, which Python keeps anyway, tell when they are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import getrefcount

from dovetile.ir.held import Storage, attach
from dovetile.ir.uop import UOp, hold
from dovetile.runtime import Buffer
from dovetile.tensor.base import TensorBase

_MOST_KEPT = 3
"""Of one result: one goes to the caller while the one before is an argument or in a variable, and
the commands hold a third until they are given another."""
_ALONE = next(map(getrefcount, [object()]))
"""The count of what only one list holds, as `map` finds it; it depends on the interpreter."""


class Place:
    """Where a result lies: memory, and the nodes that show it.

    Args:
        memory: for the commands, which may hold it longer than anybody has the result.
        views: for each Tensor that shows it, the movement ops to it, last first.
    """

    __slots__ = ("_counts", "_things", "buffer", "memory", "nodes", "storage")

    def __init__(self, memory: Buffer, views: Sequence[Sequence[UOp]]) -> None:
        self.memory = memory
        shown = memory.view(0, memory.nbytes)
        self.buffer = UOp.buffer(memory.nbytes // memory.dtype.itemsize, memory.dtype,
                                 memory.device.name)  # fmt: skip
        attach(self.buffer, shown)
        self.storage: Storage = self.buffer.held
        self.nodes: list[UOp] = []
        chain = {self.buffer: None}
        for moves in views:
            node = self.buffer
            for move in reversed(moves):
                node = UOp(move.op, move.dtype, (node, *move.src[1:]), move.arg)
                chain[node] = None
            self.nodes.append(node)
        self._things: list[object] = [shown, *chain]
        owners = [*chain, *(s for node in chain for s in node.src), *self.nodes, self.buffer]
        # The storage holds the Buffer.
        self._counts = [_ALONE + 1, *(_ALONE - 1 + sum(o is n for o in owners) for n in chain)]

    def is_free(self) -> bool:
        """Whether nobody else refers to any part of it."""
        return list(map(getrefcount, self._things)) == self._counts

    def forget(self) -> None:
        """Forgets what whoever had it has made of it: it is about to hold something else."""
        self.storage.leaf = self.storage.origin = None
        for node in self.nodes:
            if node is not self.buffer:
                hold(node, None)

    def tensor(self, kind: type[TensorBase], view: int) -> TensorBase:
        """A new Tensor that shows the result."""
        tensor = kind._new(self.nodes[view])
        tensor._attach(self.buffer)
        return tensor


class Fresh:
    """A result that lies in memory of its own after every replay.

    Args:
        model: memory of the same size, in which the commands put it at first.
    """

    def __init__(self, model: Buffer) -> None:
        self.model = model
        self.views: list[Sequence[UOp]] = []
        """For each Tensor that shows it, the movement ops to it, last first."""
        self._kept: list[Place] = []

    def take(self) -> Place:
        """Memory that nobody uses. Raises OutOfMemoryError."""
        kept = self._kept  # the last one first, as the commands use that
        place = next(filter(Place.is_free, kept), None)
        if place is None:
            model = self.model
            memory = Buffer.allocated(model.device, model.nbytes, model.dtype)
            place = Place(memory, self.views)
        else:
            place.forget()
            if len(kept) == 1:
                return place
        # Of the others, those that are free are not needed.
        used = [other for other in kept if other is not place and not other.is_free()]
        self._kept = [place, *used[: _MOST_KEPT - 1]]
        return place
