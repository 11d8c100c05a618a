"""STAGE becomes a buffer: a nest that fills it, and loads where the value was used.

After this pass the kernel holds no STAGE. Where the fill stands follows from what it depends on:
the linearizer puts it at the innermost open loop of its value. A STAGE of a REDUCE holds the
accumulators: the loops of the REDUCE then stand around those of the STAGE, and what is inside of
them (panels of operands, say) is filled once for all accumulators.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from dovetile import dtypes
from dovetile.ir.identity import identity
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.linear import local_end

_ALIGNMENT = 64
# Rows of a panel at multiples of so many bytes fall into few places of a cache.
_CONFLICT = 1024
Ranges = tuple[UOp, ...]


def lower_stages(sink: UOp, vector_bytes: int = 0) -> UOp:
    """`sink` without STAGE nodes.

    vector_bytes: size of the vectors with which a panel is copied along an axis that is contiguous
    in the source; 0 for one element at a time.
    """
    offset, ids = local_bytes(sink), unused_ids(sink)
    while stages := [n for n in nodes_of(sink) if n.op is Op.STAGE]:
        # Innermost first: the list is sorted sources first, and one replacement may hold others.
        stage = stages[0]
        space, _depth = stage.arg
        value, ranges = stage.src[0], stage.src[1:]
        sizes = [int(r.src[0].maximum) for r in ranges]
        nbytes = sizes[-1] * value.dtype.itemsize
        if len(sizes) > 1 and space is AddressSpace.LOCAL and nbytes % _CONFLICT == 0:
            sizes[-1] += _ALIGNMENT // value.dtype.itemsize
        count = math.prod(sizes)
        slot = offset if space is AddressSpace.LOCAL else len(stages)
        buffer = UOp.buffer(count, value.dtype, slot=slot, space=space)
        if space is AddressSpace.LOCAL:
            offset += aligned(count * value.dtype.itemsize)
        if value.op is Op.REDUCE:
            filled = _accumulated(buffer, value, ranges, sizes, ids)
        else:
            filled = _copied(buffer, value, ranges, sizes, ids, vector_bytes)
        held = buffer.after(filled).index(position(ranges, sizes)).load()
        sink = substitute(sink, {stage: held})
    return sink


def local_bytes(kernel: UOp) -> int:
    """Bytes of LOCAL memory that the buffers of a kernel take."""
    buffers = (n for n in nodes_of(kernel) if n.op is Op.BUFFER)
    held = (local_end(n) for n in buffers if n.arg.space is AddressSpace.LOCAL)
    return aligned(max(held, default=0))


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to where the next LOCAL buffer may begin."""
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _copied(
    buffer: UOp, value: UOp, ranges: Ranges, sizes: list[int], ids: Iterator[int], nbytes: int
) -> UOp:
    """The nest that computes each element once and stores it."""
    if not any(r.arg.kind is AxisKind.VECTOR for r in ranges):
        value, ranges, sizes = _merged(value, ranges, sizes)
    inner = _own(ranges, ids)
    loops, points = inner, inner
    if not any(r.arg.kind is AxisKind.VECTOR for r in ranges):
        loops, points = _vectorised(value, ranges, inner, nbytes // value.dtype.itemsize, ids)
    fill_value = substitute_ranges(value, dict(zip(ranges, points)))
    place = buffer.after(*_outer(fill_value, loops))
    store = place.index(position(points, sizes)).store(fill_value)
    return store.end(*_in_source_order(fill_value, loops))


def _own(ranges: Ranges, ids: Iterator[int]) -> Ranges:
    """New loops like these; the length of one may depend on those before it."""
    own: dict[UOp, UOp] = {}
    for r in ranges:
        own[r] = UOp.range(substitute_ranges(r.src[0], own), r.arg.kind, next(ids))
    return tuple(own.values())


def _in_source_order(value: UOp, loops: Ranges) -> Ranges:
    """The loops such that the source is read in the order in which it lies in memory: it is far
    away, and what prefetches it follows neighbours."""
    loads = [n for n in nodes_of(value) if n.op is Op.LOAD]
    if not loads:
        return loops
    strides, _ = linear_form(loads[0].src[0].src[1])
    return tuple(sorted(loops, key=lambda r: -abs(strides.get(r, 0))))


def _merged(value: UOp, ranges: Ranges, sizes: list[int]) -> tuple[UOp, Ranges, list[int]]:
    """The same copy with neighbouring ranges as one, where source and buffer step through both like
    through one axis. The kernel's loops need them apart; a copy takes whole vectors along one."""
    nodes = nodes_of(value)
    uses = [s for n in nodes if n.dtype is not dtypes.index for s in n.src]
    forms = [linear_form(s)[0] for s in uses if s.dtype is dtypes.index]
    for i, (outer, inner) in enumerate(zip(ranges, ranges[1:])):
        length, n = outer.src[0], inner.src[0]
        if not (length.is_const and n.is_const and n.arg == sizes[i + 1]):
            continue
        pair = {outer, inner}
        if all(
            terms.get(outer, 0) == n.arg * terms.get(inner, 0)
            and all(t in pair or pair.isdisjoint(t.ranges) for t in terms)
            for terms in forms
        ):
            whole = UOp.range(length.arg * n.arg, AxisKind.LOOP, inner.arg.id)
            value = substitute_ranges(value, {outer: UOp.const(0), inner: whole})
            sizes = [*sizes[:i], sizes[i] * n.arg, *sizes[i + 2 :]]
            return _merged(value, (*ranges[:i], whole, *ranges[i + 2 :]), sizes)
    return value, ranges, sizes


def _vectorised(
    value: UOp, ranges: Ranges, inner: Ranges, most: int, ids: Iterator[int]
) -> tuple[Ranges, Ranges]:
    """(loops, their points as values of the ranges): lanes along an axis that the source has
    contiguous, the last such, as the buffer is contiguous along its last."""
    forms = [linear_form(n.src[0].src[1])[0] for n in nodes_of(value) if n.op is Op.LOAD]
    inner = tuple(UOp.range(r.src[0], AxisKind.LOOP, r.arg.id) for r in inner)
    for i in reversed(range(len(ranges) if forms and most > 1 else 0)):
        length = ranges[i].src[0]
        contiguous = all(terms.get(ranges[i]) == 1 for terms in forms)
        if not contiguous or not length.is_const or length.arg < 2:
            continue
        n = length.arg
        lanes = min(most, 1 << (n.bit_length() - 1))
        chunks = -(-n // lanes)
        # Where lanes do not divide the length, neighbouring vectors overlap, all by as much.
        step, rest = divmod(n - lanes, max(chunks - 1, 1))
        if rest:
            continue
        lane = UOp.range(lanes, AxisKind.VECTOR, inner[i].arg.id)
        before, after = inner[:i], inner[i + 1 :]
        if chunks == 1:
            return (*before, lane, *after), (*before, lane, *after)
        kind = AxisKind.UNROLL if chunks <= 4 else AxisKind.LOOP
        chunk = UOp.range(chunks, kind, next(ids))
        return (*before, chunk, lane, *after), (*before, chunk * step + lane, *after)
    return inner, inner


def _accumulated(
    buffer: UOp, value: UOp, ranges: Ranges, sizes: list[int], ids: Iterator[int]
) -> UOp:
    """The nest that sums up in memory: accumulators start, then each step updates all of them."""
    body, steps = value.src[0], value.src[1:]
    first, inner = _own(ranges, ids), _own(ranges, ids)
    term = substitute_ranges(body, dict(zip(ranges, inner)))
    place = buffer.after(*_outer(term, (*inner, *steps)))
    start = UOp.const(identity(value.arg, value.dtype.scalar), value.dtype)
    started = place.index(position(first, sizes)).store(start).end(*first)
    address = buffer.after(started, *steps).index(position(inner, sizes))
    # The old sum is read last: read first, it would keep registers from the loops of the term.
    return address.store(term.alu(value.arg, address.load())).end(*steps, *inner)


def _outer(value: UOp, inner: Ranges) -> list[UOp]:
    """The loops around a nest, in an order that is always the same."""
    return sorted(value.ranges.difference(inner), key=lambda r: r.arg.id)


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
