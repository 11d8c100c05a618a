"""Launches that begin before the one ahead of them is complete.

What a kernel does before its BARRIER "launch" goes on beside the end of the launch before: its
threads get their places, indices are computed, and elements that no launch of the plan writes are
on their way. Everything else stands behind the barrier.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from dovetile import dtypes
from dovetile.ir.ops import ELEMENTWISE, AddressSpace, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import buffer_of
from dovetile.plugins.specs import Capabilities

_FREE = ELEMENTWISE | {Op.CONST, Op.SPECIAL, Op.VARIABLE, Op.INDEX, Op.VECTOR, Op.EXTRACT}


def await_launches(
    program: Sequence[UOp], steady: Set[int], capabilities: Capabilities
) -> list[UOp]:
    """The program with its barrier.

    Args:
        steady: slots of the buffers that nothing writes since the plan began.
    """
    barrier = UOp(Op.BARRIER, dtypes.void, (), "launch")
    room = capabilities.vector_bytes * capabilities.vector_registers // 2
    early: dict[UOp, None] = {}
    for node in program:
        if node.op is Op.BUFFER and node.arg.space is AddressSpace.GLOBAL:
            early[node] = None
        elif node.ranges or not all(s in early for s in node.src):
            continue
        elif node.op is Op.LOAD and len(node.src) == 1:
            nbytes = node.dtype.itemsize * node.dtype.lanes
            if buffer_of(node.src[0]).arg.slot in steady and nbytes <= room:
                room -= nbytes
                early[node] = None
        elif node.op in _FREE:
            early[node] = None
    first = _needed(early)
    return [*first, barrier, *(n for n in program if n not in first)]


def _needed(early: dict[UOp, None]) -> dict[UOp, None]:
    """The loads, and what their addresses are computed from, in order."""
    needed: set[UOp] = set()
    for node in reversed(early):
        if node.op is Op.LOAD or node in needed:
            needed.update((node, *node.src))
    return {node: None for node in early if node in needed}
