"""REDUCE becomes a loop over an accumulator: an ordinary REG buffer with ordinary stores.

Reductions over the same ranges that do not need each other share one loop.
"""

from __future__ import annotations

import itertools

from dovetile.dtypes import DType, Scalar
from dovetile.ir.identity import identity
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.expand import chained
from dovetile.lower.registers import unused_slots
from dovetile.lower.stages import unused_ids


def constant(value: Scalar, dtype: DType) -> UOp:
    """A constant in every lane of `dtype`."""
    scalar = UOp.const(value, dtype.scalar)
    return scalar if dtype.lanes == 1 else UOp(Op.VECTOR, dtype, (scalar,))


def lower_reductions(sink: UOp) -> UOp:
    """`sink` without REDUCE nodes."""
    sink, groups = _with_own_loops(sink)
    slots = unused_slots(sink)
    while groups:
        replacements: dict[UOp, UOp] = {}
        for (ranges, outer, below), reductions in groups.items():
            if below == 0:
                replacements.update(_loop(reductions, ranges, outer, slots))
        nested = any(nest[2] for nest in groups)
        sink = substitute(sink, replacements)
        groups = _groups(sink) if nested else {}
    return sink


Nest = tuple[tuple[UOp, ...], tuple[UOp, ...], int]


def _groups(sink: UOp) -> dict[Nest, list[UOp]]:
    """Reductions by the loops they can share: by their ranges, those outside, and how many
    reductions they have below them."""
    depth: dict[UOp, int] = {}
    groups: dict[Nest, list[UOp]] = {}
    for node in nodes_of(sink):
        below = 0
        for s in node.src:
            if depth[s] > below:
                below = depth[s]
        depth[node] = below
        if node.op is Op.REDUCE:
            depth[node] += 1
            outer = tuple(sorted(node.ranges, key=lambda r: r.arg.id))
            groups.setdefault((node.src[1:], outer, below), []).append(node)
    return groups


def _with_own_loops(sink: UOp) -> tuple[UOp, dict[Nest, list[UOp]]]:
    """Gives every nest of loops ranges that no other nest has; and the groups of what it gives.

    Outer nests come first: what they reduce then differs, and with it the nests inside.
    """
    ids = unused_ids(sink)
    groups = _groups(sink)
    while (found := _sharing(groups)) is not None:
        ranges, reductions = found
        own = {r: UOp.range(r.src[0], r.arg.kind, next(ids)) for r in ranges}
        changes = {
            node: node.with_sources((substitute_ranges(node.src[0], own), *own.values()))
            for node in reductions
        }
        sink = substitute(sink, changes)
        groups = _groups(sink)
    return sink, groups


def _sharing(groups: dict[Nest, list[UOp]]) -> tuple[tuple[UOp, ...], list[UOp]] | None:
    """The ranges and the reductions of an outermost nest of which another has a range too."""
    taken: set[UOp] = set()
    for nest in sorted(groups, key=lambda nest: -nest[2]):
        if not taken.isdisjoint(nest[0]):
            return nest[0], groups[nest]
        taken.update(nest[0])
    return None


def _loop(
    reductions: list[UOp], inner: tuple[UOp, ...], outer: tuple[UOp, ...], slots: itertools.count
) -> dict[UOp, UOp]:
    updates, registers = [], []
    for node in reductions:
        register = UOp.buffer(1, node.dtype, slot=next(slots), space=AddressSpace.REG)
        start = constant(identity(node.arg, node.dtype.scalar), node.dtype)
        first = register.after(*outer).index(0).store(start)
        body = node.src[0]
        terms = body.src if body.op is Op.GROUP else (body,)
        value = register.after(first, *inner).index(0).load(dtype=node.dtype)
        if terms[0].op is Op.MATMUL:
            value = chained(terms, value)
        else:
            for term in terms:
                value = value.alu(node.arg, term)
        updates.append(register.after(first, *inner).index(0).store(value))
        registers.append(register)
    done = UOp.group(*updates).end(*inner)
    return {
        node: register.after(done).index(0).load(dtype=node.dtype)
        for node, register in zip(reductions, registers)
    }
