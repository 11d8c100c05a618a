"""Launches that begin before the one ahead of them is complete.

What a kernel does before its BARRIER "launch" goes on beside the end of the launch before: its
threads get their places, indices are computed, and elements that no launch of the plan writes are
on their way. Everything else stands behind the barrier.
"""

from __future__ import annotations

from dataclasses import replace

from dovetile import dtypes
from dovetile.ir.ops import ELEMENTWISE, AddressSpace, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel, buffer_of

_FREE = ELEMENTWISE | {Op.CONST, Op.SPECIAL, Op.VARIABLE, Op.INDEX, Op.VECTOR, Op.EXTRACT}


def await_launches(kernel: LinearKernel, room: int) -> LinearKernel:
    """The kernel with its barrier; renderers of targets with `early_launches` call this.

    Args:
        room: bytes of registers that may be filled before it.
    """
    barrier = UOp(Op.BARRIER, dtypes.void, (), "launch")
    early: dict[UOp, None] = {}
    for node in kernel.uops:
        if node.op is Op.BUFFER and node.arg.space is AddressSpace.GLOBAL:
            early[node] = None
        elif node.ranges or not all(s in early for s in node.src):
            continue
        elif node.op is Op.LOAD and len(node.src) == 1:
            nbytes = node.dtype.itemsize * node.dtype.lanes
            if buffer_of(node.src[0]).arg.slot in kernel.steady and nbytes <= room:
                room -= nbytes
                early[node] = None
        elif node.op in _FREE:
            early[node] = None
    first = _needed(early)
    read = {buffer_of(n.src[0]) for n in kernel.uops if n.op is Op.LOAD}
    slots = {b.arg.slot for b in read if b.arg.space is AddressSpace.GLOBAL}
    rest = (node for node in kernel.uops if node not in first)
    return replace(kernel, uops=(*first, barrier, *rest), changing=frozenset(slots - kernel.steady))


def _needed(early: dict[UOp, None]) -> dict[UOp, None]:
    """The loads, and what their addresses are computed from, in order."""
    needed: set[UOp] = set()
    for node in reversed(early):
        if node.op is Op.LOAD or node in needed:
            needed.update((node, *node.src))
    return {node: None for node in early if node in needed}
