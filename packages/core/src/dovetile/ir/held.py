"""What hangs on nodes while a program runs: what values have become, who shows which memory.

It lies in a slot of the node itself: it is found without a table, and goes when the node goes.
"""

from __future__ import annotations

import weakref
from typing import Any

from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, hold

_BUFFER = Op.BUFFER  # looking up a member of an Enum is slow before Python 3.12


class Storage:
    """What hangs on a BUFFER.

    memory: the runtime's Buffer. tensors: the Tensors that show it through movement ops, an
    IdentitySet; an assign through one of them is seen by all. leaf: the one among them whose
    gradient is asked for. origin: the expression whose value the BUFFER was made for; other graphs
    with that expression read the BUFFER too, until it is written to.
    """

    __slots__ = ("leaf", "memory", "origin", "tensors")

    def __init__(self, memory: Any = None) -> None:
        self.memory = memory
        self.tensors: Any = None
        self.leaf: weakref.ref[Any] | None = None
        self.origin: weakref.ref[UOp] | None = None


def storage(buffer: UOp) -> Storage:
    """What hangs on a BUFFER."""
    found = buffer.held
    if found is None:
        found = Storage()
        hold(buffer, found)
    return found


def attach(buffer: UOp, memory: Any) -> None:
    """Makes `memory` the memory of a BUFFER."""
    hold(buffer, Storage(memory))


def become(node: UOp, view: UOp) -> None:
    """The value of `node` now lies in memory, of which `view` is a view."""
    hold(node, view)


def realized(node: UOp) -> UOp:
    """The view of memory that `node` has become, or `node` itself."""
    held = node.held
    return node if held is None or node.op is _BUFFER else held


def forget(node: UOp) -> None:
    """Compute `node` again when it is needed: what it has become is about to be overwritten."""
    hold(node, None)


def forget_origin(buffer: UOp) -> None:
    """Forgets what the BUFFER was made for: it is about to hold something else."""
    known = storage(buffer)
    node = None if known.origin is None else known.origin()
    known.origin = None
    if node is not None:
        forget(node)
