"""Loops of sums that leave out terms which are zero.

What a mask has set to zero lies in memory as zeros, and a sum of products with it needs none of
them: its loop begins and ends where the conditions of the mask say. Copies of the loop's body and
lanes go on to where the last of them needs it, which adds zeros.
"""

from __future__ import annotations

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.linear import plain
from dovetile.lower.stages import unused_ids
from dovetile.optimize.visible import visible

_COPIES = (AxisKind.UNROLL, AxisKind.VECTOR)


def bound_sums(sink: UOp) -> UOp:
    """`sink` with shorter loops, and without the conditions that say what held memory contains."""
    if not _held(sink):
        return sink
    ids = unused_ids(sink)
    changes = {}
    for node in nodes_of(sink):
        if node.op is not Op.REDUCE or node.arg is not Op.ADD:
            continue
        body, axis, *others = node.src
        if axis.arg.kind in _COPIES:
            continue
        inner = frozenset(others) | {r for r in body.ranges if r.arg.kind in _COPIES}
        first, end = visible(body, axis, inner, outside=0.0)
        if (first, end) == (UOp.const(0), axis.src[0]):
            continue
        left = UOp.range((end + first * -1).maximum_with(0), axis.arg.kind, next(ids))
        changes[node] = node.replace(
            src=(substitute_ranges(body, {axis: first + left}), left, *others)
        )
    sink = substitute(sink, changes)
    return substitute(sink, {n: plain(n) for n in _held(sink)})


def _held(sink: UOp) -> list[UOp]:
    return [n for n in nodes_of(sink) if n.op is Op.LOAD and n.arg == "held"]
