"""STAGE becomes a buffer: a nest that fills it, and loads where the value was used.

After this pass the kernel holds no STAGE. Where the fill stands follows from what it depends on:
the linearizer puts it at the innermost open loop of its value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp, nodes_of

_ALIGNMENT = 64


def lower_stages(sink: UOp) -> tuple[UOp, int]:
    """`sink` without STAGE nodes, and the bytes of LOCAL memory that it needs."""
    offset, ids = 0, unused_ids(sink)
    while stages := [n for n in nodes_of(sink) if n.op is Op.STAGE]:
        # Innermost first: the list is sorted sources first, and one replacement may hold others.
        stage = stages[0]
        space, _depth = stage.arg
        value, ranges = stage.src[0], stage.src[1:]
        sizes = [r.src[0].maximum for r in ranges]
        count = math.prod(sizes)
        slot = offset if space is AddressSpace.LOCAL else len(stages)
        buffer = UOp.buffer(count, value.dtype, slot=slot, space=space)
        if space is AddressSpace.LOCAL:
            nbytes = count * value.dtype.itemsize
            offset += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        inner = tuple(UOp.range(r.src[0], r.arg.kind, next(ids)) for r in ranges)
        fill_value = substitute_ranges(value, dict(zip(ranges, inner)))
        outer = sorted(fill_value.ranges.difference(inner), key=lambda r: r.arg.id)
        place = buffer.after(*outer)
        fill = place.index(position(inner, sizes)).store(fill_value).end(*inner)
        held = buffer.after(fill).index(position(ranges, sizes)).load()
        sink = substitute(sink, {stage: held})
    return sink, offset


def unused_ids(sink: UOp) -> Iterator[int]:
    """Numbers for new RANGEs: those of a kernel count from 0, as those of a process do, so that a
    number which is new in the process may be taken here."""
    taken = [n.arg.id for n in nodes_of(sink) if n.op is Op.RANGE]
    return itertools.count(max(taken, default=-1) + 1)


def position(ranges: tuple[UOp, ...], sizes: list[int]) -> UOp:
    """The row-major index of a point of these ranges."""
    flat, stride = UOp.const(0), 1
    for r, n in zip(reversed(ranges), reversed(sizes)):
        flat = r * stride + flat if stride != 1 else r + flat if flat.op is not Op.CONST else r
        stride *= n
    return flat
