"""Loops of sums that leave out terms which are zero.

What a mask has set to zero lies in memory as zeros, and a sum of products with it needs none of
them: its loop begins and ends where the conditions of the mask say. Copies of the loop's body and
lanes go on to where the last of them needs it, which adds zeros.
"""

from __future__ import annotations

import math

from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp, nodes_of, toposort
from dovetile.lower.linear import buffer_of, plain
from dovetile.lower.stages import unused_ids
from dovetile.optimize.visible import compares, conditions, possible, visible

_COPIES = (AxisKind.UNROLL, AxisKind.VECTOR)


def bound_sums(sink: UOp) -> UOp:
    """`sink` with shorter loops, and without the conditions that say what held memory contains."""
    sink = _only_where_needed(sink)
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


def _only_where_needed(sink: UOp) -> UOp:
    """`sink` with no steps of sums whose results are replaced, or multiplied by zero: in tiles that
    a mask leaves nothing of. All threads of a workgroup must go through the same steps: not there.
    """
    nodes = nodes_of(sink)
    stores = [n for n in nodes if n.op is Op.STORE]
    stores = [n for n in stores if buffer_of(n.src[0]).arg.space is AddressSpace.GLOBAL]
    if len(stores) != 1 or any(n.op is Op.RANGE and n.arg.kind is AxisKind.LOCAL for n in nodes):
        return sink
    (value,) = (n.src[1] for n in stores)
    needed = conditions(value, -math.inf) or conditions(value, 0.0)
    needed = tuple(c for c in needed if compares(c))
    if not needed:
        return sink
    changes = {}
    ids = unused_ids(sink)
    for node in toposort(value, lambda n: n.op not in (Op.REDUCE, Op.LOAD)):
        if node.op is not Op.REDUCE or node.src[1].arg.kind in _COPIES:
            continue
        inner = frozenset(r for r in node.ranges if r.arg.kind in _COPIES)
        found = [possible(c, inner) for c in needed if c.ranges <= node.ranges]
        length = node.src[1].src[0]
        for holds in found:
            length = length if holds is None else length * holds
        if length is not node.src[1].src[0]:
            left = UOp.range(length, node.src[1].arg.kind, next(ids))
            changes[node] = node.replace(
                src=(substitute_ranges(node.src[0], {node.src[1]: left}), left, *node.src[2:])
            )
    return substitute(sink, changes) if changes else sink


def _held(sink: UOp) -> list[UOp]:
    return [n for n in nodes_of(sink) if n.op is Op.LOAD and n.arg == "held"]
