"""The Opt by which the threads of a workgroup exchange what they have before it is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.linear import barrier
from dovetile.lower.stages import position
from dovetile.optimize.opts import OptError, next_id, output_axes

# Bytes by which rows in LOCAL memory are longer than what is stored: the rows of one access then
# begin in different banks.
_PADDING = 16


@dataclass(frozen=True)
class Exchange:
    """Lets what is stored go through LOCAL memory: threads write it along the axes that they have
    computed it for, and read it along new ones, in the order in which it is stored.

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
        address, value = store.src
        terms, _ = linear_form(address.src[1])
        if any(t.ranges.intersection(old) for t in terms if t not in old):
            raise OptError("[Exchange] the place of what is stored is no sum along the axes")
        place, new, lengths = address.src[1], [], []
        fresh = next_id(kernel)
        for number, group in enumerate(groups):
            step = _step(group, terms)
            lengths.append(math.prod(r.src[0].arg for r in group))
            new.append(UOp.range(lengths[-1], AxisKind.LOOP, fresh + number))
            place = place + new[-1] * step
        place = _without(place, old)
        last = len(groups[-1])
        pitch = lengths[-1] + _PADDING // value.dtype.itemsize
        memory = UOp.buffer(
            math.prod(lengths[:-1]) * pitch, value.dtype, slot=0, space=AddressSpace.LOCAL
        )
        inner = position(tuple(old[-last:]))
        outer = position(tuple(old[:-last]))
        # What the threads of others still read there must have been read.
        staged = any(n.op is Op.STAGE for n in nodes_of(value))
        ready = memory.after(barrier(value)) if staged else memory
        written = ready.index(outer * pitch + inner).store(value).end(*old)
        read = position((*new[:-1],)) * pitch + new[-1]
        moved = memory.after(barrier(written)).index(read).load()
        kept = [r for r in end.src[1:] if r not in old]
        return kernel.replace(src=(address.src[0].index(place).store(moved).end(*kept, *new),))


def _step(group: Sequence[UOp], terms: dict[UOp, int]) -> int:
    """How far the last axis of a group goes; the others must go on where it ends."""
    step = terms.get(group[-1], 0)
    expected = step
    for r in reversed(group):
        if not r.src[0].is_const or terms.get(r, 0) != expected or not step:
            raise OptError(f"[Exchange] axes {[r.arg.id for r in group]} do not make up one")
        expected *= r.src[0].arg
    return step


def _without(index: UOp, ranges: Sequence[UOp]) -> UOp:
    """The index where these are zero."""
    terms, constant = linear_form(index)
    value = UOp.const(constant)
    for term, factor in terms.items():
        if term not in ranges:
            value = value + (term * factor if factor != 1 else term)
    return value
