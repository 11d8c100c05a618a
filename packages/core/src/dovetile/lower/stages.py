"""STAGE becomes a buffer: a nest that fills it, and loads where the value was used.

After this pass the kernel holds no STAGE. Where the fill stands follows from what it depends on:
the linearizer puts it at the innermost open loop of its value. A STAGE of a REDUCE holds the
accumulators: the loops of the REDUCE then stand around those of the STAGE, and what is inside of
them (panels of operands, say) is filled once for all accumulators.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dovetile import dtypes
from dovetile.ir.identity import identity
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import rewrite, substitute, substitute_ranges
from dovetile.ir.symbolic import fold_gates, linear_form, simplify_index
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.group_units import exchanged, unit_panels
from dovetile.lower.linear import local_end, plain

_ALIGNMENT = 64
# Rows of a panel at multiples of so many bytes fall into few places of a cache.
_CONFLICT = 1024
# Vectors of a copy that are put together from stretches have so many lanes at least.
_LEAST_LANES, _MOST_STRETCHES = 8, 4
# Rounds in which the threads of a workgroup fill memory that become copies, not a loop.
_MOST_ROUNDS = 8
_FOLDED = simplify_index + fold_gates
Ranges = tuple[UOp, ...]


def lower_stages(sink: UOp, vector_bytes: int = 0, threads: int = 1) -> UOp:
    """`sink` without STAGE nodes.

    vector_bytes: size of the vectors with which a panel is copied along an axis that is contiguous
    in the source; 0 for one element at a time.
    threads: of the workgroup, which fill LOCAL memory together.
    """
    ids, panels = unused_ids(sink), unit_panels(sink)
    offset = local_bytes(sink)
    while stages := [n for n in nodes_of(sink) if n.op is Op.STAGE]:
        # Innermost first: the list is sorted sources first, and one replacement may hold others.
        stage = stages[0]
        together = [s for s in stages if loop_of(s) is loop_of(stage)] if loop_of(stage) else []
        copies = []
        for node in together or [stage]:
            space, depth = node.arg
            copy = Copy(node, offset, ids, node in panels, vector_bytes, threads)
            offset += aligned(copy.nbytes * depth) if space is AddressSpace.LOCAL else 0
            copies.append(copy)
        held = pipelined(copies, ids) if together else [copies[0].held()]
        sink = substitute(sink, {c.stage: h for c, h in zip(copies, held)})
    return sink


def local_bytes(kernel: UOp) -> int:
    """Bytes of LOCAL memory that the buffers of a kernel take."""
    buffers = (n for n in nodes_of(kernel) if n.op is Op.BUFFER)
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
        self.sizes = [int(r.src[0].maximum) for r in self.ranges]
        itemsize = self.value.dtype.itemsize
        conflict = self.sizes[-1] * itemsize % _CONFLICT == 0 and not panel
        if len(self.sizes) > 1 and self.local and conflict:
            self.sizes[-1] += _ALIGNMENT // itemsize
        self.count = math.prod(self.sizes)
        self.nbytes = self.count * itemsize
        slot = slot if self.local else next(ids)
        self.buffer = UOp.buffer(self.count * self.depth, self.value.dtype, slot=slot, space=space)

    def held(self, *effects: UOp, turn: UOp | None = None) -> UOp:
        """The value where it was used: read after these effects, or after the memory was filled."""
        place = position(self.ranges, self.sizes)
        place = place + turn * self.count if turn is not None else place
        filled = effects or (self._filled(),)
        load = self.buffer.after(*filled).index(place).load()
        value = self.stage.src[0]
        if value is self.value:
            return load
        return load.replace(src=(*load.src, *value.src[1:]), arg=value.arg)  # true of copies too

    def _filled(self) -> UOp:
        if self.value.op is Op.REDUCE:
            return _accumulated(self.buffer, self.value, self.ranges, self.sizes, self.ids)
        filled = self.nests(self.value)
        return filled if self.threads == 1 else barrier(filled)

    def nests(
        self, value: UOp, turn: UOp | None = None, ready: tuple[UOp, ...] | None = None
    ) -> UOp:
        """The nests that compute each element once and store it: where conditions hold but for the
        last steps of a loop, one without conditions, and one for those steps.

        turn: in which of the places for a STAGE of some depth; the stores are asynchronous then.
        ready: what must have happened before they begin.
        """
        ranges, sizes, lanes = self.ranges, self.sizes, 0
        # The lanes of a fragment are more than those of a vector: they are copied like other axes.
        if self.threads > 1 or sum(r.arg.kind is AxisKind.VECTOR for r in ranges) != 1:
            plain: dict[UOp, UOp] = {}
            for r in ranges:
                length = substitute_ranges(r.src[0], plain)
                plain[r] = UOp.range(length, AxisKind.LOOP, r.arg.id)
            value, ranges = substitute_ranges(value, plain), tuple(plain.values())
            value, ranges, sizes = _merged(value, ranges, sizes)
            lanes = self.vector_bytes // value.dtype.itemsize
        nest = _Nest(self, sizes, turn, ready)
        cut = _unconditional(value, ranges) if turn is None else None
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
    sizes: list[int]
    turn: UOp | None
    ready: tuple[UOp, ...] | None

    def store(self, value: UOp, ranges: Ranges, places: Ranges, lanes: int) -> UOp:
        """One nest over copies of these ranges; `places` are their points in the buffer."""
        copy, ids = self.copy, self.copy.ids
        inner = _own(ranges, ids)
        loops, points = inner, inner
        if lanes:
            loops, points = _vectorised(value, ranges, inner, lanes, ids)
        moved = dict(zip(ranges, points))
        fill_value = substitute_ranges(value, moved)
        at = substitute_ranges(position(places, self.sizes), moved)
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


def barrier(*effects: UOp) -> UOp:
    """All threads of the workgroup have done these."""
    return UOp(Op.BARRIER, dtypes.void, effects, "workgroup")


def loop_of(stage: UOp) -> UOp | None:
    """The loop for whose steps a STAGE of some depth is filled ahead; None for any other."""
    loops = [r for r in stage.ranges if r.arg.kind is not AxisKind.LOCAL]
    return loops[0] if stage.arg[1] > 1 and len(loops) == 1 else None


def pipelined(copies: Sequence[Copy], ids: Iterator[int]) -> list[UOp]:
    """The values of STAGEs that are filled some steps of their loop ahead, by asynchronous stores:
    the first before the loop; in it, each step waits for its own and begins those of a later step,
    into places that every thread is done with: those of the step before, or of that before it,
    where a unit may still read what it was last given."""
    loop, depth = loop_of(copies[0].stage), min(c.depth for c in copies)
    lead = depth - (2 if any(c.panel for c in copies) else 1)
    assert loop is not None

    def fill(step: UOp, ready: tuple[UOp, ...]) -> UOp:
        stores = []
        for c in copies:
            value = substitute_ranges(c.value, {loop: step})
            if step.maximum >= loop.src[0].arg:
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
    count = _interleaved(ranges, forms, most)
    if count:
        lanes = tuple(UOp.range(r.src[0], AxisKind.VECTOR, r.arg.id) for r in inner[-count:])
        return (*inner[:-count], *lanes), (*inner[:-count], *lanes)
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
