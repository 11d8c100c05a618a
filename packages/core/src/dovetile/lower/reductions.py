"""REDUCE becomes a loop over an accumulator: an ordinary REG buffer with ordinary stores.

Reductions over the same ranges that do not need each other share one loop.
"""

from __future__ import annotations

import itertools

from dovetile.dtypes import DType, Scalar
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp, toposort
from dovetile.lower.stages import unused_ids


def identity(op: Op, dtype: DType) -> Scalar:
    """The value that changes nothing under the reduction `op`."""
    return {Op.ADD: 0, Op.MUL: 1, Op.MAX: dtype.minimum, Op.MIN: dtype.maximum}[op]


def constant(value: Scalar, dtype: DType) -> UOp:
    """A constant in every lane of `dtype`."""
    scalar = UOp.const(value, dtype.scalar)
    return scalar if dtype.lanes == 1 else UOp(Op.VECTOR, dtype, (scalar,))


def lower_reductions(sink: UOp) -> UOp:
    """`sink` without REDUCE nodes."""
    slots = itertools.count()
    ids = unused_ids(sink)
    used: set[UOp] = set()
    while groups := _innermost(sink):
        replacements: dict[UOp, UOp] = {}
        for (ranges, outer), reductions in groups.items():
            if used.isdisjoint(ranges):
                inner = ranges
            else:  # these loops exist already: a second nest needs loops of its own
                inner = tuple(UOp.range(r.src[0], r.arg.kind, next(ids)) for r in ranges)
            used.update(inner)
            replacements.update(_loop(reductions, dict(zip(ranges, inner)), outer, slots))
        sink = substitute(sink, replacements)
    return sink


def _innermost(sink: UOp) -> dict[tuple, list[UOp]]:
    """Reductions whose values hold no other reduction, by what loop they can share."""
    depth: dict[UOp, int] = {}
    groups: dict[tuple, list[UOp]] = {}
    for node in toposort(sink):
        below = max((depth[s] for s in node.src), default=0)
        depth[node] = below + (node.op is Op.REDUCE)
        if node.op is Op.REDUCE and below == 0:
            outer = tuple(sorted(node.ranges, key=lambda r: r.arg.id))
            groups.setdefault((node.src[1:], outer), []).append(node)
    return groups


def _loop(
    reductions: list[UOp], renamed: dict[UOp, UOp], outer: tuple[UOp, ...], slots: itertools.count
) -> dict[UOp, UOp]:
    inner = tuple(renamed.values())
    updates, registers = [], []
    changed = {old: new for old, new in renamed.items() if old is not new}
    for node in reductions:
        register = UOp.buffer(1, node.dtype, slot=next(slots), space=AddressSpace.REG)
        start = constant(identity(node.arg, node.dtype.scalar), node.dtype)
        first = register.after(*outer).index(0).store(start)
        body = substitute_ranges(node.src[0], changed)
        terms = body.src if body.op is Op.GROUP else (body,)
        value = register.after(first, *inner).index(0).load(dtype=node.dtype)
        for term in terms:
            value = value.alu(node.arg, term)
        updates.append(register.after(first, *inner).index(0).store(value))
        registers.append(register)
    done = UOp.group(*updates).end(*inner)
    return {
        node: register.after(done).index(0).load(dtype=node.dtype)
        for node, register in zip(reductions, registers)
    }
