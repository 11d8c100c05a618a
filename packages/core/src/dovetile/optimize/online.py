"""Dependent reductions in one loop over blocks, by the rule of `rescale`.

For a block of rows the loop holds the running maximum and the running sums. Each round computes a
tile of scores, corrects the sums for the new maximum and adds the tile's terms. All of these are
ordinary nests around ordinary STOREs, with axes of their own, which other Opts split and bind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dovetile.ir.identity import identity
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.linear import buffer_of
from dovetile.lower.stages import aligned, local_bytes, position, unused_ids
from dovetile.optimize.opts import OptError, axis, output_axes
from dovetile.optimize.rescale import Closing, closing, factors, product

Points = Mapping[UOp, UOp]


@dataclass(frozen=True)
class Online:
    """Closes the dependent reductions of a kernel together: for all points of the output axis
    `rows`, and `size` points of the reduced axis at a time."""

    rows: int
    size: int
    space: AddressSpace = AddressSpace.LOCAL

    def apply(self, kernel: UOp) -> UOp:
        found = closing(kernel)
        if found is None or found.top is None:
            raise OptError("[Online] no reductions of the kernel can share one loop")
        rows = axis(kernel, self.rows)
        if rows not in found.rows or not rows.src[0].is_const:
            raise OptError(f"[Online] axis {self.rows} is no axis of the maximum, of constant size")
        if not 1 <= self.size <= found.axis.src[0].arg:
            raise OptError(f"[Online] blocks of {self.size}; the axis has {found.axis.src[0].arg}")
        return _Loop(found, rows, self.size, self.space).kernel()


@dataclass(frozen=True)
class _Held:
    """Memory for a value at all points of some axes."""

    memory: UOp
    axes: tuple[UOp, ...]

    def after(self, *effects: UOp) -> _Held:
        """The same once the effects have happened, or inside of loops."""
        return _Held(self.memory.after(*effects), self.axes)

    def at(self, points: Points) -> UOp:
        """The address of a point."""
        ranges = tuple(points[r] for r in self.axes)
        return self.memory.index(position(ranges))


class _Loop:
    """The loop over blocks of the reduced axis: where a block begins, and what is held."""

    def __init__(self, found: Closing, rows: UOp, size: int, space: AddressSpace) -> None:
        self.found, self.rows, self.size, self.space = found, rows, size, space
        self.ids = unused_ids(found.kernel)
        self.offset = local_bytes(found.kernel)
        self.outer = sorted(found.rows - {rows}, key=lambda r: r.arg.id)
        # Rows last: they are neighbours in memory.
        columns = [r for r in output_axes(found.kernel) if r not in found.rows]
        self.order = (found.axis, *columns, rows)
        n = found.axis.src[0].arg
        first, end = found.seen(frozenset({rows}))
        first, end = first // size, (end + (size - 1)) // size
        count = (end + first * -1).maximum_with(0)
        self.block = UOp.range(count, AxisKind.REDUCE, next(self.ids))
        begin = (first + self.block) * size
        # The last block overlaps the one before it: what that has counted is masked.
        self.start = begin.minimum_with(n - size) if n % size else begin
        self.counted = begin if n % size else None

    def kernel(self) -> UOp:
        found, top = self.found, self.found.top
        assert top is not None
        states = {node: self._memory(node) for node in (top, *(node for node, _ in found.sums))}
        ready = UOp.group(*(self._started(node, state) for node, state in states.items()))
        tiles = {found.score: self._tile(found.score, {})}
        corrections = {k: self._memory(top) for k in dict.fromkeys(k for _, k in found.sums)}
        safe = self._memory(top)
        grown = self._grown(states[top], ready, tiles, safe, corrections)
        tiles[top] = safe.after(grown)
        effects = [grown]
        for node, k in found.sums:
            correction = corrections[k].after(grown)
            effects.append(self._added(node, states[node].after(ready), correction, tiles))
        done = UOp.group(*effects).end(self.block)
        here = {r: r for r in self.order}
        return substitute(
            found.kernel, {n: s.after(done).at(here).load() for n, s in states.items()}
        )

    # -- what is held ------------------------------------------------------------------------------

    def _memory(self, value: UOp) -> _Held:
        """Memory for a value at all points of a block, the columns and the rows."""
        axes = tuple(r for r in self.order if r in value.ranges)
        count = math.prod(self._extent(r) for r in axes)
        slot = self.offset
        self.offset += aligned(count * value.dtype.itemsize)
        return _Held(UOp.buffer(count, value.dtype, slot=slot, space=self.space), axes)

    def _extent(self, r: UOp) -> int:
        return self.size if r is self.found.axis else int(r.src[0].maximum)

    def _own(self, axes: tuple[UOp, ...], kind: AxisKind = AxisKind.LOOP) -> dict[UOp, UOp]:
        """New loops for these axes."""
        return {r: UOp.range(self._extent(r), kind, next(self.ids)) for r in axes}

    def _value(self, value: UOp, points: Points, tiles: Mapping[UOp, _Held]) -> UOp:
        """The value at these points of the block, from what tiles hold."""
        loads = {node: tile.at(points).load() for node, tile in tiles.items()}
        places = {r: p + self.start if r is self.found.axis else p for r, p in points.items()}
        return substitute_ranges(substitute(value, loads), places)

    # -- the nests of a round ----------------------------------------------------------------------

    def _started(self, node: UOp, state: _Held) -> UOp:
        points = self._own(state.axes)
        start = UOp.const(identity(node.arg, node.dtype), node.dtype)
        return state.after(*self.outer).at(points).store(start).end(*points.values())

    def _tile(self, value: UOp, tiles: Mapping[UOp, _Held]) -> _Held:
        """A value at all points of the block and the rows, computed in a nest of its own."""
        held = self._memory(value)
        points = self._own(held.axes)
        result = self._value(value, points, tiles)
        if value is self.found.score and self.counted is not None:
            again = points[self.found.axis] + self.start < self.counted
            result = again.where(UOp.const(-math.inf, value.dtype), result)
        result = _operands_held(result, points[self.rows], points.values())
        place = held.after(*self.outer, self.block).at(points)
        return held.after(place.store(result).end(*points.values()))

    def _grown(
        self, top: _Held, ready: UOp, tiles: Mapping[UOp, _Held], safe: _Held,
        corrections: Mapping[float, _Held],
    ) -> UOp:  # fmt: skip
        """The nest that updates the maxima, and computes by what older sums are off."""
        points = self._own(top.axes)
        inner = self._own((self.found.axis,), AxisKind.REDUCE)
        score = tiles[self.found.score].at({**points, **inner}).load()
        greatest = UOp(Op.REDUCE, score.dtype, (score, *inner.values()), Op.MAX)
        address = top.after(ready, self.block).at(points)
        old = address.load()
        new = old.maximum_with(greatest)
        # Where all scores so far are minus infinity there is no difference to a maximum: any finite
        # number in its place gives weights of 0.
        finite = new.eq(-math.inf).where(new.const_like(0), new)
        effects = [address.store(new)]
        values = [(safe, finite)]
        values += [(c, ((finite - old) * k).alu(Op.EXP2)) for k, c in corrections.items()]
        for held, value in values:
            effects.append(held.after(*self.outer, self.block).at(points).store(value))
        return UOp.group(*effects).end(*points.values())

    def _added(self, node: UOp, state: _Held, correction: _Held, tiles: dict[UOp, _Held]) -> UOp:
        """The nest that corrects a sum and adds the terms of the block."""
        columns = frozenset(self.order[1:-1])
        parts = factors(node.src[0])
        weight = product([f for f in parts if f.ranges.isdisjoint(columns)])
        others = [f for f in parts if not f.ranges.isdisjoint(columns)]
        if weight not in tiles:
            tiles[weight] = self._tile(weight, tiles)
        points = self._own(state.axes)
        inner = self._own((self.found.axis,), AxisKind.REDUCE)
        term = self._value(product([weight, *others]), {**points, **inner}, tiles)
        total = UOp(Op.REDUCE, node.dtype, (term, *inner.values()), Op.ADD)
        total = _operands_held(total, points[self.rows], points.values())
        address = state.after(self.block).at(points)
        old = address.load() * correction.at(points).load().cast(node.dtype)
        # The old sum is read last: read first, it would keep registers from the loop.
        return address.store(total + old).end(*points.values())


def _operands_held(value: UOp, rows: UOp, own: Iterable[UOp]) -> UOp:
    """The value with operands of its sums of products in LOCAL memory: those of the rows, which all
    blocks have in common, and those that are computed, which all rows have in common."""
    changes = {}
    for node in nodes_of(value):
        if node.op is not Op.REDUCE or node.src[0].op is not Op.MUL:
            continue
        operands = node.src[0].src
        if sum(rows in o.ranges for o in operands) != 1:
            continue
        held = []
        for operand in operands:
            axes = [r for r in (*own, *node.src[1:]) if r in operand.ranges]
            plain = operand.op is Op.LOAD and len(operand.src) == 1
            if rows in operand.ranges:
                axes = [*(r for r in axes if r is not rows), rows]
                plain = plain and buffer_of(operand.src[0]).arg.space is not AddressSpace.GLOBAL
            held.append(operand if plain else operand.stage(*axes, space=AddressSpace.LOCAL))
        changes[node] = node.replace(src=(held[0] * held[1], *node.src[1:]))
    return substitute(value, changes)
