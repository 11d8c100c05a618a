"""Memory that is filled some steps of a loop ahead: by asynchronous stores, or by fetched boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dovetile import dtypes
from dovetile.ir.ops import AddressSpace, AxisKind, Box, Op
from dovetile.ir.rewrite import rewrite, substitute_ranges
from dovetile.ir.symbolic import linear_form, simplify_index
from dovetile.ir.uop import UOp
from dovetile.lower.linear import barrier, buffer_of
from dovetile.plugins.matrix_unit import PIECE_BYTES, ROW_BYTES

if TYPE_CHECKING:
    from dovetile.lower.stages import Copy

# Of a box: what targets that fetch boxes can count.
_MOST_AXES, _LONGEST_AXIS, _LARGEST_COORDINATE = 5, 256, 1 << 31


def loops_of(stage: UOp) -> tuple[UOp, ...]:
    """The loops for whose steps a STAGE of some depth is filled ahead: one, or that of a sum in
    that of a workgroup's blocks. Of any other STAGE none."""
    loops = [r for r in stage.ranges if r.arg.kind is not AxisKind.LOCAL]
    loops.sort(key=lambda r: r.arg.kind is AxisKind.REDUCE)
    blocks = [r.arg.kind for r in loops] == [AxisKind.LOOP, AxisKind.REDUCE]
    fits = len(loops) == 1 or blocks and loops[1].src[0].is_const
    return tuple(loops) if stage.arg[1] > 1 and fits else ()


def pipelined(copies: Sequence[Copy], lag: int, ids: Iterator[int]) -> list[UOp]:
    """The values of STAGEs that are filled some steps of their loop ahead, by asynchronous stores:
    the first before the loop; in it, each step waits for its own and begins those of a later step,
    into places that every thread is done with: those of `lag` steps before."""
    (loop,), depth = loops_of(copies[0].stage), min(c.depth for c in copies)
    lead = depth - lag

    def fill(step: UOp, ready: tuple[UOp, ...]) -> UOp:
        stores = []
        for c in copies:
            value = substitute_ranges(c.value, {loop: step})
            if step.maximum >= loop.src[0].minimum:
                value = _only_if(step < loop.src[0], value)
            stores.append(c.nests(value, step % depth, ready))
        return UOp(Op.COMMIT, dtypes.void, tuple(stores))

    first = UOp.range(lead, AxisKind.LOOP, next(ids))
    begun = fill(first, ()).end(first)
    met = barrier(UOp(Op.WAIT, dtypes.void, (begun, loop), lead - 1))
    ahead = fill(loop + lead, (met,))
    return [c.held(met, ahead, turn=loop % depth) for c in copies]


def _only_if(condition: UOp, value: UOp) -> UOp:
    """A LOAD that is zero elsewhere, and reads nothing there."""
    zero, gate = value.src[1:] if len(value.src) == 3 else (value.const_like(0), condition)
    gate = gate if gate is condition else gate & condition
    return value.replace(src=(value.src[0], zero, gate))


class Part(NamedTuple):
    """A box, the buffer that it is part of, and where there it starts."""

    box: Box
    source: UOp
    coordinates: tuple[UOp, ...]


def fetched(
    copies: Sequence[Copy], parts: Sequence[Part], arrivals: UOp, lag: int, ids: Iterator[int]
) -> list[UOp]:
    """The same by boxes that one thread fetches. arrivals: LOCAL memory, a place for each step that
    is under way; in a round of a place all boxes of one step arrive."""
    *around, loop = loops_of(copies[0].stage)
    depth = arrivals.arg.size
    now, steps, lead = loop, loop.src[0], depth - lag
    for block in around:  # the steps of all blocks follow each other
        now, steps = block * loop.src[0] + loop, block.src[0] * loop.src[0]

    def at_step(index: UOp, step: UOp) -> UOp:
        points = {loop: step}
        if around:
            points = {around[0]: step // loop.src[0], loop: step % loop.src[0]}
        return rewrite(substitute_ranges(index, points), simplify_index)

    place = UOp.range(depth, AxisKind.LOOP, next(ids))
    count = UOp.const(len(copies), dtypes.uint64)
    counted = barrier(arrivals.index(place).store(count, arg="arrivals").end(place))
    arrivals = arrivals.after(counted)

    def fetch(step: UOp, ready: UOp) -> UOp:
        begun = []
        for copy, (box, source, coordinates) in zip(copies, parts):
            at = copy.buffer.after(ready).index(step % depth * copy.count)
            starts = (at_step(c, step) for c in coordinates)
            operands = (at, arrivals.index(step % depth), step < steps, source, *starts)
            begun.append(UOp(Op.FETCH, dtypes.void, operands, box))
        return UOp.group(*begun)

    first = UOp.range(lead, AxisKind.LOOP, next(ids))
    begun = fetch(first, counted).end(first)
    come = UOp(Op.WAIT, dtypes.void, (arrivals.index(now % depth), now // depth, begun))
    met = barrier(come)
    ahead = fetch(now + lead, met)
    return [c.held(met, ahead, turn=now % depth) for c in copies]


def box_of(copy: Copy) -> Part | None:
    """What a step fills the memory with, as one box; None where it is none."""
    value, ranges, _ = copy.plain(copy.value)
    if value.op is not Op.LOAD or len(value.src) != 1 or not copy.panel:
        return None
    if any(not r.src[0].is_const for r in ranges):
        return None
    address = value.src[0]
    source, itemsize = buffer_of(address), value.dtype.itemsize
    terms, constant = linear_form(address.src[1])
    strides = tuple(terms.get(r, 0) for r in reversed(ranges))
    rest = {t: factor for t, factor in terms.items() if t not in ranges}
    sizes, row = tuple(r.src[0].arg for r in reversed(ranges)), ROW_BYTES // itemsize
    if sizes[0] > row:  # rows that lie behind each other in the source as well
        sizes, strides = (row, sizes[0] // row, *sizes[1:]), (strides[0], row, *strides[1:])
    inner = copy.count % row == 0 and sizes[0] == row and strides[0] == 1
    outer = all(s > 0 and s * itemsize % PIECE_BYTES == 0 for s in strides[1:])
    fits = len(sizes) <= _MOST_AXES and max(sizes) <= _LONGEST_AXIS
    plain = source.op is Op.BUFFER and source.arg.space is AddressSpace.GLOBAL
    if not (inner and outer and fits and plain) or constant < 0:
        return None
    if any(t.ranges.intersection(ranges) or t.minimum < 0 or f < 0 for t, f in rest.items()):
        return None
    coordinates = [UOp.const(0)] * len(strides)
    largest = sorted(range(len(strides)), key=lambda axis: -strides[axis])
    for term, factor in (*rest.items(), (UOp.const(1), constant)):
        for axis in largest:
            # A constant is spread over the axes; what moves is a multiple of one of them.
            whole = factor // strides[axis]
            if whole and (factor % strides[axis] == 0 or term.is_const):
                coordinates[axis] = coordinates[axis] + term * whole
                factor -= whole * strides[axis]
    extents = tuple(int(c.maximum) + n for c, n in zip(coordinates, sizes))
    if max(extents) > _LARGEST_COORDINATE:
        return None
    box = Box(extents, strides, sizes, exchanged=True)
    return Part(box, source, tuple(coordinates))
