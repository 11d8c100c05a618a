"""The Opt by which the threads of a workgroup exchange what they have before it is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import substitute
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, consumers, nodes_of, toposort
from dovetile.lower.linear import barrier
from dovetile.lower.stages import position
from dovetile.optimize.opts import OptError, next_id, output_axes

# Bytes by which rows in LOCAL memory are longer than what is stored: the rows of one access then
# begin in different banks.
_PADDING = 16


@dataclass(frozen=True)
class Exchange:
    """Lets what is stored go through LOCAL memory: threads write it along the axes that they have
    computed it for, and read it along new ones, in the order in which it is stored. What is read
    from elsewhere to be combined with a sum is read along the new axes as well, where it can be:
    the sum goes through LOCAL memory then.

    groups: axes of the output, the most significant first in each. Every group becomes one new
    axis; the elements of neighbours along the last are next to each other in LOCAL memory.
    """

    groups: tuple[tuple[int, ...], ...]

    def apply(self, kernel: UOp) -> UOp:
        end = kernel.src[0]
        store = end.src[0]
        if end.op is not Op.END or store.op is not Op.STORE or len(store.src) != 2:
            raise OptError("[Exchange] the kernel has not one store, without a condition")
        named = {r.arg.id: r for r in output_axes(kernel)}
        if missing := [i for group in self.groups for i in group if i not in named]:
            raise OptError(f"[Exchange] axes {missing} are not of the output")
        groups = [[named[i] for i in group] for group in self.groups]
        old = [r for group in groups for r in group]
        fresh = next_id(kernel)
        lengths = [math.prod(r.src[0].arg for r in group) for group in groups]
        new = [UOp.range(n, AxisKind.LOOP, fresh + i) for i, n in enumerate(lengths)]
        address, value = store.src
        place = _along(address.src[1], groups, new)
        if place is None or not all(r in place.ranges for r in new):
            raise OptError("[Exchange] the place of what is stored is no sum along the axes")
        moved, rest = value, {}
        for node in _before_loads(value, frozenset(old)):
            changes = _read_along(value, node, groups, new)
            if changes is not None and node.dtype.itemsize <= value.dtype.itemsize:
                moved, rest = node, changes
        last = len(groups[-1])
        pitch = lengths[-1] + _PADDING // moved.dtype.itemsize
        memory = UOp.buffer(
            math.prod(lengths[:-1]) * pitch, moved.dtype, slot=0, space=AddressSpace.LOCAL
        )
        inner = position(tuple(old[-last:]))
        outer = position(tuple(old[:-last]))
        # What the threads of others still read there must have been read.
        staged = any(n.op is Op.STAGE for n in nodes_of(moved))
        ready = memory.after(barrier(moved)) if staged else memory
        written = ready.index(outer * pitch + inner).store(moved).end(*old)
        read = position((*new[:-1],)) * pitch + new[-1]
        found = memory.after(barrier(written)).index(read).load()
        stored = substitute(value, {moved: found, **rest})
        kept = [r for r in end.src[1:] if r not in old]
        return kernel.replace(src=(address.src[0].index(place).store(stored).end(*kept, *new),))


def _before_loads(value: UOp, old: frozenset[UOp]) -> list[UOp]:
    """A value's sum, and what is computed from it alone, one after the other."""
    nodes = nodes_of(value)
    sums = [n for n in nodes if n.op is Op.REDUCE]
    users = consumers(nodes)
    chain = sums[-1:] if all(n is sums[-1] or n in sums[-1].toposort() for n in sums) else []
    while chain and chain[-1] is not value and len(users[chain[-1]]) == 1:
        (user,) = users[chain[-1]]
        if any(s is not chain[-1] and s.ranges & old for s in user.src):
            break
        chain.append(user)
    return chain


def _read_along(
    value: UOp, known: UOp, groups: Sequence[Sequence[UOp]], new: Sequence[UOp]
) -> dict[UOp, UOp] | None:
    """What else a value is computed from along these axes, along new ones; None where it cannot be
    read so."""
    old = {r for group in groups for r in group}
    changes: dict[UOp, UOp] = {}
    for node in toposort(value, lambda n: n is not known and n.op is not Op.LOAD):
        if node is known or not node.ranges & old:
            continue
        if node.op is Op.RANGE:
            return None
        if node.op is Op.LOAD:
            buffer, index = node.src[0].src
            place = _along(index, groups, new)
            if place is None or any(s.ranges & old for s in (buffer, *node.src[1:])):
                return None
            changes[node] = node.replace(src=(buffer.index(place), *node.src[1:]))
    return changes


def _along(index: UOp, groups: Sequence[Sequence[UOp]], new: Sequence[UOp]) -> UOp | None:
    """The index along a new axis for each group; None where it does not go on evenly along one."""
    terms, constant = linear_form(index)
    old = {r for group in groups for r in group}
    if any(t.ranges & old for t in terms if t not in old):
        return None
    place = UOp.const(constant)
    for term, factor in terms.items():
        if term not in old:
            place = place + (term * factor if factor != 1 else term)
    for group, axis in zip(groups, new):
        step = expected = terms.get(group[-1], 0)
        for r in reversed(group):
            if not r.src[0].is_const or terms.get(r, 0) != expected:
                return None
            expected *= r.src[0].arg
        place = place + axis * step if step else place
    return place
