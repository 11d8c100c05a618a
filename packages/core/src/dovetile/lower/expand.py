"""UNROLL axes become copies of the nodes that depend on them, VECTOR axes become lanes.

One walk from sources to users: every node gets as many copies as the UNROLL ranges open at it have
points, and a vector type where VECTOR ranges are open: of several ranges, the lanes are the points
in row-major order, the lowest id outermost. Addresses are treated as linear forms, so that the
copies of one access share a base and differ by a constant.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.group_units import operand_of
from dovetile.lower.linear import is_behind_values
from dovetile.plugins.matrix_unit import MatrixUnit

# Lanes that are spread over at most so many times their number are loaded as one stretch.
_WIDEST_SPAN = 4
# Lanes in so many stretches far from each other are loaded as these stretches.
_RUNS = (2, 4)
# What has no lanes itself.
_PLAIN = frozenset(
    {Op.AFTER, Op.GROUP, Op.SINK, Op.BARRIER, Op.COMMIT, Op.WAIT, Op.FETCH, Op.RANGE}
)
Copies = tuple[tuple[UOp, ...], list[UOp]]


def expand(sink: UOp) -> UOp:
    """`sink` without UNROLL and VECTOR ranges."""
    return _Expander().run(sink)


def lane_axes(node: UOp) -> tuple[UOp, ...]:
    """The open VECTOR ranges of a node, in the order of its lanes."""
    found = [r for r in node.ranges if r.arg.kind is AxisKind.VECTOR]
    return tuple(sorted(found, key=lambda r: r.arg.id)) if len(found) > 1 else tuple(found)


def lanes_of(node: UOp) -> int:
    """How many lanes the open VECTOR ranges of a node ask for; 1 where there are none."""
    return math.prod(r.src[0].arg for r in node.ranges if r.arg.kind is AxisKind.VECTOR)


def broadcast(value: UOp, lanes: int) -> UOp:
    """The value in all of `lanes` lanes."""
    if value.dtype.lanes == lanes or lanes == 1 or value.dtype is dtypes.void:
        return value
    return UOp(Op.VECTOR, value.dtype.vec(lanes), (value,))


class _Expander:
    def __init__(self) -> None:
        self.copies: dict[UOp, Copies] = {}
        # For an address the places of its lanes; None where they are only known at run time.
        self.offsets: dict[UOp, list[int] | None] = {}

    def run(self, sink: UOp) -> UOp:
        dims_of: dict[frozenset[UOp], tuple[UOp, ...]] = {}
        units = [n for n in nodes_of(sink) if n.op is Op.REDUCE and isinstance(n.arg, MatrixUnit)]
        # What a unit computes is not written out: the product, and the casts of its operands.
        inside = {unit.src[0] for unit in units}
        inside |= {n for p in inside if p.op is Op.MUL for n in p.src if n.op is Op.CAST}
        for node in nodes_of(sink):
            if node in inside:
                continue
            dims = dims_of.get(node.ranges)
            if dims is None:
                unrolled = [r for r in node.ranges if r.arg.kind is AxisKind.UNROLL]
                dims = dims_of[node.ranges] = tuple(sorted(unrolled, key=lambda r: r.arg.id))
            self.copies[node] = (dims, self._expand(node, dims))
        return self.copies[sink][1][0]

    def _points(self, dims: tuple[UOp, ...]) -> list[tuple[int, ...]]:
        return list(itertools.product(*(range(r.src[0].arg) for r in dims)))

    def _select(self, source: UOp, dims: tuple[UOp, ...]) -> list[UOp]:
        """The copy of `source` to use at every point of `dims`."""
        own, copies = self.copies[source]
        if own == dims:
            return copies
        if not own:
            return copies * math.prod(r.src[0].arg for r in dims)
        return [copies[i] for i in _places(own, dims)]

    def _expand(self, node: UOp, dims: tuple[UOp, ...]) -> list[UOp]:
        op = node.op
        if op is Op.RANGE:
            if node.arg.kind is AxisKind.UNROLL:
                return [UOp.const(i) for i in range(node.src[0].arg)]
            if node.arg.kind is AxisKind.VECTOR:
                return [_lane_constants(list(range(node.src[0].arg)))]
        if not node.src:
            return [node]
        if op is Op.INDEX:
            return self._addresses(node, dims)
        if op is Op.REDUCE:
            if node.src[0].op is Op.MATMUL and isinstance(node.arg, MatrixUnit):
                return self._group_products(node, node.src[0].src, dims)
            if isinstance(node.arg, MatrixUnit):
                return self._matrix_products(node, dims)
            return self._reductions(node, dims)
        if op is Op.END:
            return self._ends(node, dims)
        if op is Op.MATMUL:
            return self._group_products(node, node.src, dims)
        if is_behind_values(node):
            # All copies of a value are there before what one of them was read from changes.
            copies = [copy for s in node.src for copy in self.copies[s][1]]
            return [node.with_sources(tuple(dict.fromkeys(copies)))] * len(self._points(dims))
        sources = [self._select(s, dims) for s in node.src]
        if op in _PLAIN:
            return [node.with_sources(src) for src in zip(*sources)]
        axes = lane_axes(node)
        if op in (Op.LOAD, Op.STORE):
            return [self._access(node, src, axes) for src in zip(*sources)]
        if not axes:
            return [node.with_sources(src) for src in zip(*sources)]
        dtype = node.dtype.vec(lanes_of(node))
        return [UOp(op, dtype, _spread(src, node.src, axes), node.arg) for src in zip(*sources)]

    def _addresses(self, node: UOp, dims: tuple[UOp, ...]) -> list[UOp]:
        buffer, index = node.src
        terms, constant = linear_form(index)
        moving = {r for r in index.ranges if r.arg.kind in (AxisKind.UNROLL, AxisKind.VECTOR)}
        axes = lane_axes(node)
        lanes = lanes_of(node)
        points = self._points(dims)
        bases, offsets = [UOp.const(0)] * len(points), [0] * lanes
        for term, factor in terms.items():
            if term in moving:
                if term.arg.kind is AxisKind.VECTOR:
                    lane = _places((term,), axes)
                    offsets = [o + factor * i for o, i in zip(offsets, lane)]
                continue
            own = lane_axes(term)
            pattern = lane_pattern(term) if own else None
            if pattern is not None:
                rest, steps = pattern
                offsets = [o + factor * steps[i] for o, i in zip(offsets, _places(own, axes))]
                parts = [rest] * len(points)
            elif own:
                return self._irregular(node, dims)
            else:
                parts = self._select(term, dims)
            parts = [part * factor if factor != 1 else part for part in parts]
            bases = [p if b.is_const and b.arg == 0 else b + p for b, p in zip(bases, parts)]
        factors = [terms.get(r, 0) for r in dims]
        self.offsets[node] = offsets
        result = []
        for b, base, point in zip(self._select(buffer, dims), bases, points):
            offset = constant + sum(f * x for f, x in zip(factors, point))
            if base.op is Op.CONST:
                i = UOp.const(base.arg + offset)
            else:
                i = base + offset if offset else base
            result.append(b.index(i))
        return result

    def _irregular(self, node: UOp, dims: tuple[UOp, ...]) -> list[UOp]:
        """Addresses whose lanes lie at places only known at run time."""
        lanes = lanes_of(node)
        self.offsets[node] = None if lanes > 1 else [0]
        buffers, indices = self._select(node.src[0], dims), self._select(node.src[1], dims)
        return [b.index(broadcast(i, lanes)) for b, i in zip(buffers, indices)]

    def _access(self, node: UOp, src: tuple[UOp, ...], axes: tuple[UOp, ...]) -> UOp:
        if not axes:
            return node.with_sources(src)
        address, rest, lanes = src[0], src[1:], lanes_of(node)
        gated = len(src) > (1 if node.op is Op.LOAD else 2)
        places = _places(lane_axes(node.src[0]), axes)
        offsets = self.offsets[node.src[0]]
        if offsets is None:
            address = _moved_lanes(address, places)
        else:
            # Lanes at one place differ in their value or gate.
            offsets = [offsets[i] for i in places]
            start, span = min(offsets), max(offsets) - min(offsets) + 1
            if span == 1 and node.op is Op.LOAD and all(s.dtype.lanes == 1 for s in rest):
                return node.replace(src=src)  # one element, repeated where it is used
            if offsets != list(range(lanes)):
                if node.op is Op.LOAD and not gated and span <= _WIDEST_SPAN * lanes:
                    # Near each other: one load of the whole stretch, then lanes in their order.
                    stretch = UOp(Op.LOAD, node.dtype.vec(span), (_moved(address, start),))
                    order = tuple(o - start for o in offsets)
                    if order == tuple(range(span)):
                        return stretch
                    return UOp(Op.EXTRACT, node.dtype.vec(lanes), (stretch,), order)
                runs = _runs(offsets) if node.op is Op.LOAD and not gated else None
                if runs is not None:
                    return _from_runs(node.dtype, address, *runs)
                if node.op is Op.STORE and not gated and (pieces := _pieces(offsets)) > 1:
                    (value,) = _spread(rest, node.src[1:], axes)
                    return _in_pieces(node, address, value, offsets, pieces)
                positions = broadcast(address.src[1], lanes) + _lane_constants(offsets)
                address = address.src[0].index(positions)
        rest = _spread(rest, node.src[1:], axes)
        dtype = node.dtype.vec(lanes) if node.op is Op.LOAD else node.dtype
        return UOp(node.op, dtype, (address, *rest), node.arg)

    def _reductions(self, node: UOp, dims: tuple[UOp, ...]) -> list[UOp]:
        body, ranges = node.src[0], node.src[1:]
        unrolled = tuple(r for r in ranges if r.arg.kind is AxisKind.UNROLL)
        vector = {r for r in ranges if r.arg.kind is AxisKind.VECTOR}
        loops = tuple(self.copies[r][1][0] for r in ranges if r not in unrolled and r not in vector)
        inner = dims + unrolled
        bodies = self._select(body, inner)
        group = math.prod(r.src[0].arg for r in unrolled)
        axes = tuple(sorted({*lane_axes(body), *vector}, key=lambda r: r.arg.id))
        lanes = math.prod(r.src[0].arg for r in axes)
        # Threads exchange one value each, of all copies and lanes.
        last = loops if all(r.arg.kind is AxisKind.LOCAL for r in loops) else ()
        result = []
        for start in range(0, len(bodies), group):
            terms = [_spread((b,), (body,), axes)[0] for b in bodies[start : start + group]]
            dtype = node.dtype.vec(lanes)
            if len(last) == len(loops):
                products = terms[0].op is Op.MATMUL
                value = chained(terms) if products else combined(node.arg, terms)
            else:
                chain = terms[0] if len(terms) == 1 else UOp(Op.GROUP, dtype, tuple(terms))
                value = UOp(Op.REDUCE, dtype, (chain, *loops), node.arg)
            value = _across_lanes(node.arg, value, axes, vector) if vector else value
            result.append(UOp(Op.REDUCE, value.dtype, (value, *last), node.arg) if last else value)
        return result

    def _matrix_products(self, node: UOp, dims: tuple[UOp, ...]) -> list[UOp]:
        """Each a MATMUL that adds to zero; a sum of them adds to its accumulator instead."""
        a, b = (operand_of(factor) for factor in node.src[0].src)
        dtype = node.dtype.vec(lanes_of(node))
        zero = UOp(Op.VECTOR, dtype, (UOp.const(0, node.dtype),))
        fragments = zip(self._select(a, dims), self._select(b, dims))
        return [UOp(Op.MATMUL, dtype, (x, y, zero), node.arg) for x, y in fragments]

    def _group_products(
        self, node: UOp, operands: tuple[UOp, ...], dims: tuple[UOp, ...]
    ) -> list[UOp]:
        """The same for units of several threads; their axes say which lanes the result has."""
        dtype = node.dtype.vec(lanes_of(node))
        zero = UOp(Op.VECTOR, dtype, (UOp.const(0, node.dtype),))
        both = zip(*(self._select(s, dims) for s in operands[:2]))
        return [UOp(Op.MATMUL, dtype, (a, b, zero), node.arg) for a, b in both]

    def _ends(self, node: UOp, dims: tuple[UOp, ...]) -> list[UOp]:
        effect, ranges = node.src[0], node.src[1:]
        unrolled = tuple(r for r in ranges if r.arg.kind is AxisKind.UNROLL)
        loops = tuple(
            self.copies[r][1][0]
            for r in ranges
            if r.arg.kind not in (AxisKind.UNROLL, AxisKind.VECTOR)
        )
        effects = self._select(effect, dims + unrolled)
        group = len(effects) // math.prod(r.src[0].arg for r in dims)
        result = []
        for start in range(0, len(effects), group):
            flat = []
            for e in dict.fromkeys(effects[start : start + group]):
                flat += e.src if e.op is Op.GROUP else (e,)
            result.append(UOp.group(*dict.fromkeys(flat)).end(*loops))
        return result


def _places(own: tuple[UOp, ...], axes: tuple[UOp, ...]) -> list[int]:
    """For every point of `axes` the place of its coordinates among the points of `own`, which are
    some of these axes; both in row-major order."""
    strides, stride = {}, 1
    for r in reversed(own):
        strides[r] = stride
        stride *= r.src[0].arg
    result = [0]
    for r in axes:
        step = strides.get(r, 0)
        result = [i + step * x for i in result for x in range(r.src[0].arg)]
    return result


def _spread(
    values: tuple[UOp, ...], nodes: tuple[UOp, ...], axes: tuple[UOp, ...]
) -> tuple[UOp, ...]:
    """Values with lanes along all of `axes`; each has lanes along those open at its node, or one
    lane."""
    lanes = math.prod(r.src[0].arg for r in axes)
    result = []
    for value, node in zip(values, nodes):
        if 1 < value.dtype.lanes < lanes:
            order = tuple(_places(lane_axes(node), axes))
            value = UOp(Op.EXTRACT, value.dtype.vec(lanes), (value,), order)
        result.append(broadcast(value, lanes))
    return tuple(result)


def _moved_lanes(address: UOp, places: list[int]) -> UOp:
    """The address whose lanes are those at `places` of this one's."""
    buffer, index = address.src
    if index.dtype.lanes in (1, len(places)):
        return buffer.index(broadcast(index, len(places)))
    return buffer.index(UOp(Op.EXTRACT, index.dtype.vec(len(places)), (index,), tuple(places)))


def _runs(offsets: list[int]) -> tuple[list[int], int, list[int]] | None:
    """(starts, length, places) where all lanes lie in a few stretches of `length` elements: lane i
    is number places[i] of the stretches put together. None where they do not."""
    seen = sorted(set(offsets))
    starts = [o for i, o in enumerate(seen) if i == 0 or seen[i - 1] != o - 1]
    length, rest = divmod(len(seen), len(starts))
    whole = [start + i for start in starts for i in range(length)]
    if len(starts) not in _RUNS or rest or length < 4 or whole != seen:
        return None
    place = {o: i for i, o in enumerate(seen)}
    return starts, length, [place[o] for o in offsets]


def _pieces(offsets: list[int]) -> int:
    """The length of the pieces, a power of two, in which lanes lie one after another."""
    length = 1
    while len(offsets) % (2 * length) == 0 and all(
        offsets[i + length + j] - offsets[i] == length + j
        for i in range(0, len(offsets), 2 * length)
        for j in range(length)
    ):
        length *= 2
    return length


def _in_pieces(node: UOp, address: UOp, value: UOp, offsets: list[int], length: int) -> UOp:
    """A store for each piece."""
    dtype = value.dtype.vec(length)
    stores = []
    for i in range(0, len(offsets), length):
        lanes = UOp(Op.EXTRACT, dtype, (value,), tuple(range(i, i + length)))
        stores.append(node.replace(src=(_moved(address, offsets[i]), lanes)))
    return UOp.group(*stores)


def _from_runs(
    dtype: DType, address: UOp, starts: list[int], length: int, places: list[int]
) -> UOp:
    """A load of each stretch, then the lanes in their order."""
    parts = [UOp(Op.LOAD, dtype.vec(length), (_moved(address, start),)) for start in starts]
    together = UOp(Op.VECTOR, dtype.vec(length * len(parts)), tuple(parts))
    return UOp(Op.EXTRACT, dtype.vec(len(places)), (together,), tuple(places))


def chained(products: Sequence[UOp], start: UOp | None = None) -> UOp:
    """The sum of MATMULs, each of which adds to the one before, and the first to `start`."""
    value = start if start is not None else products[0].src[2]
    for product in products:
        value = product.replace(src=(*product.src[:2], value))
    return value


def _lane_constants(values: list[int]) -> UOp:
    lanes = tuple(UOp.const(v) for v in values)
    return lanes[0] if len(lanes) == 1 else UOp(Op.VECTOR, dtypes.index.vec(len(lanes)), lanes)


def _moved(address: UOp, offset: int) -> UOp:
    buffer, index = address.src
    return buffer.index(index + offset if index.op is not Op.CONST else index.arg + offset)


def lane_pattern(term: UOp) -> tuple[UOp, list[int]] | None:
    """(start, steps) such that lane i of an index term has the value start + steps[i].

    For quotients and remainders (rest + lane * c) by d where d divides whatever rest can be; None
    for other terms.
    """
    if term.op not in (Op.FLOORDIV, Op.FLOORMOD) or not term.src[1].is_const:
        return None
    terms, constant = linear_form(term.src[0])
    d = term.src[1].arg
    lane = [t for t in terms if t.op is Op.RANGE and t.arg.kind is AxisKind.VECTOR]
    rest = {t: f for t, f in terms.items() if t not in lane}
    fixed = all(
        r.arg.kind not in (AxisKind.UNROLL, AxisKind.VECTOR) for t in rest for r in t.ranges
    )
    if len(lane) != 1 or d <= 0 or not fixed or any(f * _divisor(t) % d for t, f in rest.items()):
        return None
    factor, lanes = terms[lane[0]], lane[0].src[0].arg
    values = [constant + factor * i for i in range(lanes)]
    if term.op is Op.FLOORMOD:
        return UOp.const(0), [v % d for v in values]
    start = UOp.const(0)
    for t, f in rest.items():
        start = start + (t * (f // d) if f % d == 0 else (t * f) // d)
    return start, [v // d for v in values]


def _divisor(node: UOp) -> int:
    """A number that divides every value of an index expression; 0 for zero itself."""
    if node.op is Op.CONST:
        return abs(node.arg)
    if node.op is Op.MUL:
        return _divisor(node.src[0]) * _divisor(node.src[1])
    if node.op in (Op.ADD, Op.MIN, Op.MAX):
        return math.gcd(_divisor(node.src[0]), _divisor(node.src[1]))
    return 1


def combined(op: Op, terms: list[UOp]) -> UOp:
    """All terms combined pairwise, which rounds less than a chain and depends less."""
    while len(terms) > 1:
        pairs = [terms[i].alu(op, terms[i + 1]) for i in range(0, len(terms) - 1, 2)]
        terms = pairs + ([terms[-1]] if len(terms) % 2 else [])
    return terms[0]


def _across_lanes(op: Op, value: UOp, axes: tuple[UOp, ...], reduced: set[UOp]) -> UOp:
    """The lanes along some of the axes combined; those along the others stay apart."""
    kept = tuple(r for r in axes if r not in reduced)
    if kept:
        order = _places(axes, (*(r for r in axes if r in reduced), *kept))
        value = UOp(Op.EXTRACT, value.dtype, (value,), tuple(order))
    while (lanes := value.dtype.lanes) > math.prod(r.src[0].arg for r in kept):
        half = lanes // 2
        dtype = value.dtype.vec(half)
        low = UOp(Op.EXTRACT, dtype, (value,), tuple(range(half)))
        high = UOp(Op.EXTRACT, dtype, (value,), tuple(range(half, lanes)))
        value = low.alu(op, high)
    return value
