"""STAGE becomes a buffer: a nest that fills it, and loads where the value was used.

After this pass the kernel holds no STAGE. Where the fill stands follows from what it depends on:
the linearizer puts it at the innermost open loop of its value. A STAGE of a REDUCE holds the
accumulators: the loops of the REDUCE then stand around those of the STAGE, and what is inside of
them (panels of operands, say) is filled once for all accumulators.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from dovetile import dtypes
from dovetile.ir.identity import identity
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import rewrite, substitute, substitute_ranges
from dovetile.ir.symbolic import fold_gates, linear_form, simplify_index
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.ahead import box_of, fetched, loop_of, pipelined
from dovetile.lower.group_units import PANEL_ALIGNMENT, exchanged, only_adds, unit_panels
from dovetile.lower.linear import barrier, is_behind_values, local_end, plain

_ALIGNMENT = 64
# Rows of a panel at multiples of so many bytes fall into few places of a cache.
_CONFLICT = 1024
# Bytes of one bank of a workgroup's memory: threads read different banks at the same time.
_BANK = 4
# Vectors of a copy that are put together from stretches have so many lanes at least.
_LEAST_LANES, _MOST_STRETCHES = 8, 4
# Rounds in which the threads of a workgroup fill memory that become copies, not a loop.
_MOST_ROUNDS = 8
_FOLDED = simplify_index + fold_gates
Ranges = tuple[UOp, ...]


def lower_stages(
    sink: UOp, vector_bytes: int = 0, threads: int = 1, bulk_copies: bool = False
) -> UOp:
    """`sink` without STAGE nodes.

    vector_bytes: size of the vectors with which a panel is copied along an axis that is contiguous
    in the source; 0 for one element at a time.
    threads: of the workgroup, which fill LOCAL memory together.
    bulk_copies: whether memory that is filled ahead is fetched in boxes, where that can be.
    """
    ids, panels = unused_ids(sink), unit_panels(sink)
    offset, under_way = local_bytes(sink, _filled_late(sink)), False
    while stages := [n for n in nodes_of(sink) if n.op is Op.STAGE]:
        # Innermost first: the list is sorted sources first, and one replacement may hold others.
        stage = stages[0]
        loop = loop_of(stage)
        together = [s for s in stages if loop_of(s) is loop] if loop is not None else []
        copies = []
        for node in together or [stage]:
            space, depth = node.arg
            if node in panels:
                offset = -(-offset // PANEL_ALIGNMENT) * PANEL_ALIGNMENT
            copy = Copy(node, offset, ids, node in panels, vector_bytes, threads)
            offset += aligned(copy.nbytes * depth) if space is AddressSpace.LOCAL else 0
            copies.append(copy)
        lag = 2 if loop is not None and only_adds(sink, loop) else 1
        parts = [box_of(c) for c in copies] if together and bulk_copies else []
        boxes = [part for part in parts if part is not None]
        if boxes and len(boxes) == len(copies):
            arrivals = UOp.buffer(
                min(c.depth for c in copies), dtypes.uint64, slot=offset, space=AddressSpace.LOCAL
            )
            offset += aligned(arrivals.arg.size * arrivals.dtype.itemsize)
            held = fetched(copies, boxes, arrivals, lag, ids)
        else:
            held = pipelined(copies, lag, ids) if together else [copies[0].held()]
            under_way = under_way or bool(together)
        sink = substitute(sink, {c.stage: h for c, h in zip(copies, held)})
    return _awaited(sink) if under_way else sink


def _awaited(sink: UOp) -> UOp:
    """`sink` with asynchronous stores complete where memory is filled anew. Those of the last steps
    of a loop are of steps beyond its end: nobody else awaits the zeros that they write."""
    late = [n for n in nodes_of(sink) if is_behind_values(n)]
    awaited = {n: n.replace(src=(*n.src, UOp(Op.WAIT, dtypes.void, n.src, 0))) for n in late}
    return substitute(sink, awaited)


def _filled_late(sink: UOp) -> set[UOp]:
    """Buffers that are filled when the values that STAGEs are read for are there, so that they may
    lie where these were."""
    return {
        node.src[0]
        for node in nodes_of(sink)
        if node.op is Op.AFTER and node.src[0].op is Op.BUFFER
        if any(map(is_behind_values, node.src[1:]))
    }


def local_bytes(kernel: UOp, apart: Collection[UOp] = ()) -> int:
    """Bytes of LOCAL memory that the buffers of a kernel take, apart from some."""
    buffers = (n for n in nodes_of(kernel) if n.op is Op.BUFFER and n not in apart)
    held = (local_end(n) for n in buffers if n.arg.space is AddressSpace.LOCAL)
    return aligned(max(held, default=0))


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to where the next LOCAL buffer may begin."""
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


class Copy:
    """Fills the memory of a STAGE: by all threads of a workgroup, where it has several.

    slot: where LOCAL memory is free. panel: whether the pieces of its rows lie exchanged, as a unit
    wants them. vector_bytes, threads: as in `lower_stages`.
    """

    def __init__(
        self, stage: UOp, slot: int, ids: Iterator[int], panel: bool, vector_bytes: int,
        threads: int,
    ) -> None:  # fmt: skip
        self.stage, self.ids, self.panel = stage, ids, panel
        self.value, self.ranges = plain(stage.src[0]), stage.src[1:]
        space, self.depth = stage.arg
        self.local = space is AddressSpace.LOCAL
        self.threads = threads if self.local else 1
        self.vector_bytes = vector_bytes
        self.strides = self._strides()
        self.count = self.strides[0] * int(self.ranges[0].src[0].maximum)
        self.nbytes = self.count * self.value.dtype.itemsize
        slot = slot if self.local else next(ids)
        self.buffer = UOp.buffer(self.count * self.depth, self.value.dtype, slot=slot, space=space)

    def _strides(self) -> list[int]:
        """What one step along each range adds to the place of an element: row-major, with a gap
        between rows that would otherwise fall into the same few places of a cache, or banks."""
        sizes, itemsize = [int(r.src[0].maximum) for r in self.ranges], self.value.dtype.itemsize
        row, unit = len(sizes) - 1, 0
        if self.threads > 1 and not self.panel:
            # What is loaded as one row is one; but lanes of who reads it may be of several rows.
            forms, kinds = _forms(self.value), [r.arg.kind for r in self.ranges]
            while row and kinds[row - 1] is not AxisKind.VECTOR and _one_axis(
                forms, *self.ranges[row - 1 : row + 1]
            ):  # fmt: skip
                row -= 1
            # Threads side by side read vectors, or an element each, of rows side by side.
            vectors = kinds[-1] in (AxisKind.VECTOR, AxisKind.UNROLL)
            unit = max(self.vector_bytes if vectors else _BANK, itemsize)
            odd = math.prod(sizes[row:]) * itemsize % (2 * unit)
            unit = 0 if odd else unit
        elif self.local and not self.panel and sizes[-1] * itemsize % _CONFLICT == 0:
            unit = _ALIGNMENT
        strides, stride = [], 1
        for i in reversed(range(len(sizes))):
            strides.insert(0, stride)
            stride = stride * sizes[i] + (unit // itemsize if i == row and i else 0)
        return strides

    def held(self, *effects: UOp, turn: UOp | None = None) -> UOp:
        """The value where it was used: read after these effects, or after the memory was filled."""
        place = position(self.ranges, self.strides)
        place = place + turn * self.count if turn is not None else place
        filled = effects or (self._filled(),)
        load = self.buffer.after(*filled).index(place).load()
        value = self.stage.src[0]
        if value is self.value:
            return load
        return load.replace(src=(*load.src, *value.src[1:]), arg=value.arg)  # true of copies too

    def _filled(self) -> UOp:
        if self.value.op is Op.REDUCE:
            return _accumulated(self.buffer, self.value, self.ranges, self.strides, self.ids)
        filled = self.nests(self.value)
        return filled if self.threads == 1 else barrier(filled)

    def plain(self, value: UOp) -> tuple[UOp, Ranges, list[int]]:
        """The value with ordinary loops for its ranges, as few as can be, and their strides."""
        plain: dict[UOp, UOp] = {}
        for r in self.ranges:
            length = substitute_ranges(r.src[0], plain)
            plain[r] = UOp.range(length, AxisKind.LOOP, r.arg.id)
        return _merged(substitute_ranges(value, plain), tuple(plain.values()), self.strides)

    def nests(
        self, value: UOp, turn: UOp | None = None, ready: tuple[UOp, ...] | None = None
    ) -> UOp:
        """The nests that compute each element once and store it: where conditions hold but for the
        last steps of a loop, one without conditions, and one for those steps.

        turn: in which of the places for a STAGE of some depth; the stores are asynchronous then.
        ready: what must have happened before they begin.
        """
        ranges, strides, lanes = self.ranges, self.strides, 0
        # The lanes of a fragment are more than those of a vector: they are copied like other axes.
        if self.threads > 1 or sum(r.arg.kind is AxisKind.VECTOR for r in ranges) != 1:
            value, ranges, strides = self.plain(value)
            straight = turn is None or _contiguous(value, ranges[-1])
            lanes = self.vector_bytes // value.dtype.itemsize if straight else 0
        nest = _Nest(self, strides, turn, ready)
        cut = _unconditional(value, ranges) if turn is None and not self.panel else None
        if cut is None:
            return nest.store(value, ranges, ranges, lanes)
        axis, count = cut
        nests = []
        for start, length in ((0, count), (count, axis.src[0].arg - count)):
            own = UOp.range(length, axis.arg.kind, next(self.ids))
            point = own + start if start else own
            part = rewrite(substitute_ranges(value, {axis: point}), _FOLDED)
            listed, points = (tuple(x if r is axis else r for r in ranges) for x in (own, point))
            nests.append(nest.store(part, listed, points, 0 if start else lanes))
        return UOp.group(*nests)


@dataclass(frozen=True)
class _Nest:
    """The loops of one copy."""

    copy: Copy
    strides: list[int]
    turn: UOp | None
    ready: tuple[UOp, ...] | None

    def store(self, value: UOp, ranges: Ranges, places: Ranges, lanes: int) -> UOp:
        """One nest over copies of these ranges; `places` are their points in the buffer."""
        copy, ids = self.copy, self.copy.ids
        inner = _own(ranges, ids)
        loops, points = inner, inner
        if lanes:
            loops, points = _vectorised(value, ranges, inner, lanes, ids, copy.panel)
        moved = dict(zip(ranges, points))
        fill_value = substitute_ranges(value, moved)
        at = substitute_ranges(position(places, self.strides), moved)
        if copy.panel:
            lane = {r: UOp.const(0) for r in loops if r.arg.kind is AxisKind.VECTOR}
            start = substitute_ranges(at, lane)
            at = exchanged(start, copy.value.dtype.itemsize) + sum(lane, UOp.const(0))
        if self.turn is not None:
            at = at + self.turn * copy.count
        outer = _outer(fill_value, loops)
        ready = self.ready
        if ready is None and copy.threads > 1:
            around = tuple(r for r in outer if r.arg.kind is not AxisKind.LOCAL)
            # In a loop the elements of the last round may still be read.
            ready = (barrier(*around),) if around else ()
        place = copy.buffer.after(*(outer if ready is None else ready)).index(at)
        store = place.store(fill_value, arg=None if self.turn is None else "async")
        ordered = _in_source_order(fill_value, loops)
        return store.end(*ordered) if copy.threads == 1 else self._shared(store, ordered)

    def _shared(self, store: UOp, loops: Ranges) -> UOp:
        """The nest of which neighbouring threads do neighbouring elements."""
        ids = self.copy.ids
        lanes = tuple(r for r in loops if r.arg.kind is AxisKind.VECTOR)
        points = [r for r in loops if r not in lanes]
        count = math.prod(int(r.src[0].maximum) for r in points)
        threads = min(self.copy.threads, 1 << (count - 1).bit_length())
        rounds = -(-count // threads)
        thread = UOp.range(threads, AxisKind.LOCAL, next(ids))
        flat, own = thread, (thread,)
        if rounds > 1:
            kind = AxisKind.UNROLL if rounds <= _MOST_ROUNDS else AxisKind.LOOP
            turn = UOp.range(rounds, kind, next(ids))
            flat, own = turn * threads + thread, (turn, thread)
        if rounds * threads > count:
            flat = flat.minimum_with(count - 1)  # some do the last element again
        values, stride = {}, 1
        for r in reversed(points):
            size = int(r.src[0].maximum)
            digit = flat // stride if stride > 1 else flat
            values[r] = digit % size if stride * size < count else digit
            stride *= size
        store = rewrite(substitute_ranges(store, values), simplify_index)
        return store.end(*own, *lanes)


def _unconditional(value: UOp, ranges: Ranges) -> tuple[UOp, int] | None:
    """A loop and how many of its steps, but not all, meet a condition of the loads whatever the
    other loops do."""
    gates = [n.src[2] for n in nodes_of(value) if n.op is Op.LOAD and len(n.src) == 3]
    for gate in gates:
        if gate.op is not Op.LT or not gate.src[1].is_const:
            continue
        terms, constant = linear_form(gate.src[0])
        for r in sorted(ranges, key=lambda r: -terms.get(r, 0)):
            factor = terms.get(r, 0)
            rest = constant + sum(
                int(f * (t.maximum if f > 0 else t.minimum)) for t, f in terms.items() if t is not r
            )
            if factor > 0 and r.src[0].is_const and r.arg.kind is AxisKind.LOOP:
                count = (gate.src[1].arg - 1 - rest) // factor + 1
                if 0 < count < r.src[0].arg:
                    return r, count
    return None


def _own(ranges: Ranges, ids: Iterator[int]) -> Ranges:
    """New loops like these; the length of one may depend on those before it."""
    own: dict[UOp, UOp] = {}
    for r in ranges:
        own[r] = UOp.range(substitute_ranges(r.src[0], own), r.arg.kind, next(ids))
    return tuple(own.values())


def _in_source_order(value: UOp, loops: Ranges) -> Ranges:
    """The loops such that the source is read in the order in which it lies in memory: it is far
    away, and what prefetches it follows neighbours. Steps of no even length are far ones."""
    loads = [n for n in nodes_of(value) if n.op is Op.LOAD]
    if not loads:
        return loops
    strides, _ = linear_form(loads[0].src[0].src[1])
    uneven = {r for t in strides for r in t.ranges if r is not t}
    return tuple(sorted(loops, key=lambda r: (r not in uneven, -abs(strides.get(r, 0)))))


def _forms(value: UOp) -> list[dict[UOp, int]]:
    """The terms of all index expressions of a value."""
    nodes = nodes_of(value)
    uses = [s for n in nodes if n.dtype is not dtypes.index for s in n.src]
    return [linear_form(s)[0] for s in uses if s.dtype is dtypes.index]


def _one_axis(forms: list[dict[UOp, int]], outer: UOp, inner: UOp) -> bool:
    """Whether a value steps through both ranges like through one."""
    pair, n = {outer, inner}, inner.src[0]
    return n.is_const and all(
        terms.get(outer, 0) == n.arg * terms.get(inner, 0)
        and all(t in pair or pair.isdisjoint(t.ranges) for t in terms)
        for terms in forms
    )


def _merged(value: UOp, ranges: Ranges, strides: list[int]) -> tuple[UOp, Ranges, list[int]]:
    """The same copy with neighbouring ranges as one, where source and buffer step through both like
    through one axis. The kernel's loops need them apart; a copy takes whole vectors along one."""
    forms = _forms(value)
    for i, (outer, inner) in enumerate(zip(ranges, ranges[1:])):
        length, n = outer.src[0], inner.src[0]
        if not (length.is_const and n.is_const and strides[i] == n.arg * strides[i + 1]):
            continue
        if _one_axis(forms, outer, inner):
            whole = UOp.range(length.arg * n.arg, AxisKind.LOOP, inner.arg.id)
            value = substitute_ranges(value, {outer: UOp.const(0), inner: whole})
            strides = [*strides[:i], *strides[i + 1 :]]
            return _merged(value, (*ranges[:i], whole, *ranges[i + 2 :]), strides)
    return value, ranges, strides


def _vectorised(
    value: UOp, ranges: Ranges, inner: Ranges, most: int, ids: Iterator[int], panel: bool
) -> tuple[Ranges, Ranges]:
    """(loops, their points as values of the ranges): lanes along an axis that the source has
    contiguous, the last such, as the buffer is contiguous along its last. A panel is stored in
    whole pieces, wherever their elements come from."""
    forms = [linear_form(n.src[0].src[1])[0] for n in nodes_of(value) if n.op is Op.LOAD]
    count = _interleaved(ranges, forms, most)
    if count:
        lanes = tuple(UOp.range(r.src[0], AxisKind.VECTOR, r.arg.id) for r in inner[-count:])
        return (*inner[:-count], *lanes), (*inner[:-count], *lanes)
    last = len(ranges) - 1
    for i in reversed(range(len(ranges) if forms and most > 1 else 0)):
        length = ranges[i].src[0]
        wanted = i == last if panel else all(terms.get(ranges[i]) == 1 for terms in forms)
        if not wanted or not length.is_const or length.arg < 2:
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


def _contiguous(value: UOp, axis: UOp) -> bool:
    """Whether all that a value loads has neighbours along an axis."""
    loads = [n for n in nodes_of(value) if n.op is Op.LOAD]
    return all(linear_form(n.src[0].src[1])[0].get(axis) == 1 for n in loads)


def _interleaved(ranges: Ranges, forms: list[dict[UOp, int]], most: int) -> int:
    """How many of the last axes give lanes together: a vector that is contiguous in the panel, and
    in the source a few stretches, as pairs of rows whose elements alternate in the panel."""
    lanes, count = 1, 0
    while count < len(ranges) and ranges[-count - 1].src[0].is_const:
        n = ranges[-count - 1].src[0].arg
        if n & (n - 1) or lanes * n > most:
            break
        lanes, count = lanes * n, count + 1
    if count < 2 or lanes < _LEAST_LANES or not forms:
        return 0
    for terms in forms:
        steps = [(terms.get(r, 0), r.src[0].arg) for r in ranges[-count:] if r.src[0].arg > 1]
        stretch = 1  # elements next to each other in the source
        while any(step == stretch for step, _ in steps):
            stretch *= next(n for step, n in steps if step == stretch)
        if stretch < lanes // _MOST_STRETCHES:
            return 0
    return count


def _accumulated(
    buffer: UOp, value: UOp, ranges: Ranges, strides: list[int], ids: Iterator[int]
) -> UOp:
    """The nest that sums up in memory: accumulators start, then each step updates all of them."""
    body, steps = value.src[0], value.src[1:]
    first, inner = _own(ranges, ids), _own(ranges, ids)
    term = substitute_ranges(body, dict(zip(ranges, inner)))
    place = buffer.after(*_outer(term, (*inner, *steps)))
    start = UOp.const(identity(value.arg, value.dtype.scalar), value.dtype)
    started = place.index(position(first, strides)).store(start).end(*first)
    address = buffer.after(started, *steps).index(position(inner, strides))
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


def position(ranges: Ranges, strides: list[int] | None = None) -> UOp:
    """Where the element at a point of these ranges lies; row-major where no strides are given."""
    if strides is None:
        sizes = [int(r.src[0].maximum) for r in ranges]
        strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    flat = UOp.const(0)
    for r, stride in zip(reversed(ranges), reversed(strides)):
        flat = r * stride + flat if stride != 1 else r + flat if flat.op is not Op.CONST else r
    return flat
