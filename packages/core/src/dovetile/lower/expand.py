"""UNROLL axes become copies of the nodes that depend on them, VECTOR axes become lanes.

One walk from sources to users: every node gets as many copies as the UNROLL ranges open at it have
points, and a vector type where a VECTOR range is open. Addresses are treated as linear forms, so
that the copies of one access share a base and differ by a constant.
"""

from __future__ import annotations

import itertools
import math

from dovetile import dtypes
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, toposort

_SCALAR, _CONTIGUOUS, _VECTOR = "scalar", "contiguous", "vector"
Copies = tuple[tuple[UOp, ...], list[UOp]]


def expand(sink: UOp) -> UOp:
    """`sink` without UNROLL and VECTOR ranges."""
    return _Expander().run(sink)


def lanes_of(node: UOp) -> int:
    """How many lanes the open VECTOR range of a node asks for; 1 where there is none."""
    for r in node.ranges:
        if r.arg.kind is AxisKind.VECTOR:
            return r.src[0].arg
    return 1


def broadcast(value: UOp, lanes: int) -> UOp:
    """The value in all of `lanes` lanes."""
    if value.dtype.lanes == lanes or lanes == 1 or value.dtype is dtypes.void:
        return value
    return UOp(Op.VECTOR, value.dtype.vec(lanes), (value,))


class _Expander:
    def __init__(self) -> None:
        self.copies: dict[UOp, Copies] = {}
        self.mode: dict[UOp, str] = {}

    def run(self, sink: UOp) -> UOp:
        for node in toposort(sink):
            dims = tuple(
                sorted(
                    (r for r in node.ranges if r.arg.kind is AxisKind.UNROLL),
                    key=lambda r: r.arg.id,
                )
            )
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
        strides, stride = {}, 1
        for r in reversed(own):
            strides[r] = stride
            stride *= r.src[0].arg
        factors = [strides.get(r, 0) for r in dims]
        return [
            copies[sum(f * x for f, x in zip(factors, point))] for point in self._points(dims)
        ]

    def _expand(self, node: UOp, dims: tuple[UOp, ...]) -> list[UOp]:
        op = node.op
        if op is Op.RANGE:
            if node.arg.kind is AxisKind.UNROLL:
                return [UOp.const(i) for i in range(node.src[0].arg)]
            if node.arg.kind is AxisKind.VECTOR:
                return [lane_numbers(node.src[0].arg, 1)]
        if not node.src:
            return [node]
        if op is Op.INDEX:
            return self._addresses(node, dims)
        if op is Op.REDUCE:
            return self._reductions(node, dims)
        if op is Op.END:
            return self._ends(node, dims)
        sources = [self._select(s, dims) for s in node.src]
        if op in (Op.AFTER, Op.GROUP, Op.SINK, Op.BARRIER, Op.RANGE):
            return [node.replace(src=src) for src in zip(*sources)]
        lanes = lanes_of(node)
        if op in (Op.LOAD, Op.STORE):
            mode = self.mode[node.src[0]]
            return [self._access(node, src, mode, lanes) for src in zip(*sources)]
        if lanes == 1:
            return [node.replace(src=src) for src in zip(*sources)]
        dtype = node.dtype.vec(lanes)
        return [
            UOp(op, dtype, tuple(broadcast(s, lanes) for s in src), node.arg)
            for src in zip(*sources)
        ]

    def _addresses(self, node: UOp, dims: tuple[UOp, ...]) -> list[UOp]:
        buffer, index = node.src
        terms, constant = linear_form(index)
        moving = {
            r for r in index.ranges if r.arg.kind in (AxisKind.UNROLL, AxisKind.VECTOR)
        }
        opaque = [t for t in terms if t.op is not Op.RANGE and t.ranges & moving]
        buffers = self._select(buffer, dims)
        if opaque:
            lanes = lanes_of(node)
            self.mode[node] = _VECTOR if lanes > 1 else _SCALAR
            return [
                b.index(broadcast(i, lanes))
                for b, i in zip(buffers, self._select(index, dims))
            ]
        base, step = UOp.const(0), 0
        for term, factor in terms.items():
            if term in moving:
                if term.arg.kind is AxisKind.VECTOR:
                    step = factor
                continue
            part = self.copies[term][1][0]
            part = part * factor if factor != 1 else part
            base = part if base.op is Op.CONST else base + part
        lanes = lanes_of(node)
        factors = [terms.get(r, 0) for r in dims]
        self.mode[node] = _SCALAR if step == 0 else _CONTIGUOUS if step == 1 else _VECTOR
        result = []
        for b, point in zip(buffers, self._points(dims)):
            offset = constant + sum(f * x for f, x in zip(factors, point))
            if base.op is Op.CONST:
                i = UOp.const(offset)
            else:
                i = base + offset if offset else base
            if step not in (0, 1):
                i = broadcast(i, lanes) + lane_numbers(lanes, step)
            result.append(b.index(i))
        return result

    def _access(self, node: UOp, src: tuple[UOp, ...], mode: str, lanes: int) -> UOp:
        address, rest = src[0], src[1:]
        if mode == _SCALAR and lanes > 1:
            if all(s.dtype.lanes == 1 for s in rest) and node.op is Op.LOAD:
                return node.replace(src=src)  # one element, repeated where it is used
            address = address.src[0].index(broadcast(address.src[1], lanes))
        rest = tuple(broadcast(s, lanes) for s in rest)
        dtype = node.dtype.vec(lanes) if node.op is Op.LOAD else node.dtype
        return UOp(node.op, dtype, (address, *rest), node.arg)

    def _reductions(self, node: UOp, dims: tuple[UOp, ...]) -> list[UOp]:
        body, ranges = node.src[0], node.src[1:]
        unrolled = tuple(r for r in ranges if r.arg.kind is AxisKind.UNROLL)
        vector = [r for r in ranges if r.arg.kind is AxisKind.VECTOR]
        loops = tuple(
            self.copies[r][1][0] for r in ranges if r not in unrolled and r not in vector
        )
        inner = dims + unrolled
        bodies = self._select(body, inner)
        group = math.prod(r.src[0].arg for r in unrolled)
        lanes = lanes_of(body)
        if vector:
            lanes = vector[0].src[0].arg
        result = []
        for start in range(0, len(bodies), group):
            terms = [broadcast(b, lanes) for b in bodies[start : start + group]]
            dtype = node.dtype.vec(lanes)
            if not loops:
                value = _tree(node.arg, terms)
            else:
                chain = terms[0] if len(terms) == 1 else UOp(Op.GROUP, dtype, tuple(terms))
                value = UOp(Op.REDUCE, dtype, (chain, *loops), node.arg)
            result.append(_across_lanes(node.arg, value) if vector else value)
        return result

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


def lane_numbers(lanes: int, step: int) -> UOp:
    """The vector 0, step, 2 * step, ..."""
    return UOp(
        Op.VECTOR, dtypes.index.vec(lanes), tuple(UOp.const(i * step) for i in range(lanes))
    )


def _tree(op: Op, terms: list[UOp]) -> UOp:
    """All terms combined pairwise, which rounds less than a chain and depends less."""
    while len(terms) > 1:
        pairs = [terms[i].alu(op, terms[i + 1]) for i in range(0, len(terms) - 1, 2)]
        terms = pairs + ([terms[-1]] if len(terms) % 2 else [])
    return terms[0]


def _across_lanes(op: Op, value: UOp) -> UOp:
    while (lanes := value.dtype.lanes) > 1:
        half = lanes // 2
        dtype = value.dtype.vec(half)
        low = UOp(Op.EXTRACT, dtype, (value,), tuple(range(half)))
        high = UOp(Op.EXTRACT, dtype, (value,), tuple(range(half, lanes)))
        value = low.alu(op, high)
    return value
