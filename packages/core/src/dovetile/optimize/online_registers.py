"""Dependent reductions in one loop over blocks, with everything in registers.

The same rule as in `online`, for targets whose threads together hold tiles in their registers: the
rows stay axes of the kernel, which other Opts make digits of threads and lanes, and only what goes
from one block to the next is memory, one REG element for each point of the axes around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dovetile.ir.identity import identity
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp
from dovetile.lower.registers import unused_slots
from dovetile.lower.stages import position, unused_ids
from dovetile.optimize.opts import OptError, axis, output_axes
from dovetile.optimize.rescale import Closing, closing, factors, product, terms_of, unscaled
from dovetile.optimize.visible import settled, unmasked


@dataclass(frozen=True)
class OnlineRegisters:
    """Closes the dependent reductions of a kernel together, `size` points of the reduced axis at a
    time.

    rows: axes that blocks are not cut for: what no point of them needs is skipped.
    cut: whether the conditions of a mask are applied apart, only to blocks for which they do not
    hold as a whole. The points of a block must then become digits of threads and lanes.
    """

    rows: tuple[int, ...]
    size: int
    cut: bool = False

    def apply(self, kernel: UOp) -> UOp:
        found = closing(kernel)
        if found is None:
            raise OptError("[OnlineRegisters] no reductions of the kernel can share one loop")
        if not 1 <= self.size <= found.axis.src[0].arg:
            n = found.axis.src[0].arg
            raise OptError(f"[OnlineRegisters] blocks of {self.size}; the axis has {n}")
        rows = frozenset(axis(found.kernel, id) for id in self.rows)
        return _Loop(found, rows, self.size, self.cut).kernel()


class _Loop:
    """The loop over blocks of the reduced axis."""

    def __init__(self, found: Closing, rows: frozenset[UOp], size: int, cut: bool) -> None:
        self.found, self.rows, self.size, self.cut = found, rows, size, cut
        self.ids, self.slots = unused_ids(found.kernel), unused_slots(found.kernel)
        first, end = found.seen(rows)
        self.first, end = first // size, (end + (size - 1)) // size
        count = (end + self.first * -1).maximum_with(0)
        self.block = UOp.range(count, AxisKind.REDUCE, next(self.ids))
        self.inner = UOp.range(size, AxisKind.REDUCE, next(self.ids))

    def kernel(self) -> UOp:
        if self.found.top is None:
            return self._added_up()
        found, top = self.found, self.found.top
        tops = _State(top, self)
        score, scale = unscaled(found.score)
        score = self._masked(score)
        again = self._again()
        if again is not None:
            score = again.where(UOp.const(-math.inf, score.dtype), score)
        old = tops.place.load()
        new = old.maximum_with(UOp(Op.REDUCE, score.dtype, (score, self.inner), Op.MAX))
        # Where all scores so far are minus infinity there is no difference to a maximum: any finite
        # number in its place gives weights of 0.
        safe = new.eq(-math.inf).where(new.const_like(0), new)
        effects, states = [tops.place.store(new)], {top: tops}
        for node, k in found.sums:
            states[node] = state = _State(node, self)
            correction = ((safe - old) * (k * scale)).alu(Op.EXP2).cast(node.dtype)
            parts = factors(terms_of(node, found, score, safe, scale))
            total = state.place.load() * correction + self._sum(parts)
            effects.append(state.place.store(total))
        results = self._results(states, effects)
        results[top] = results[top] * scale
        return substitute(found.kernel, results)

    def _added_up(self) -> UOp:
        """The loop where nothing that has been added up is corrected."""
        ((node, _),) = self.found.sums
        state = _State(node, self)
        total = state.place.load() + self._sum(factors(node.src[0]))
        results = self._results({node: state}, [state.place.store(total)])
        return substitute(self.found.kernel, results)

    def _results(self, states: dict[UOp, _State], effects: list[UOp]) -> dict[UOp, UOp]:
        """What the states are after the loop."""
        done = UOp.group(*effects).end(self.block)
        return {node: state.at(state.memory.after(done)).load() for node, state in states.items()}

    def _again(self) -> UOp | None:
        """Whether the block before has counted a point already, where that may be."""
        rest = int(self.found.axis.src[0].arg) % self.size
        return self._point(self.block) < (self.first + self.block) * self.size if rest else None

    def _masked(self, score: UOp) -> UOp:
        """The scores of a block. Of a mask whose conditions hold for whole blocks only those that
        it cuts see anything, in a loop of one round or none."""
        whole = settled(score, self.found.axis, self.rows)
        plain = unmasked(score)
        if not self.cut or whole is None or plain is score:
            return self._at_block(score, self.block)
        first, end = whole
        begin = (self.first + self.block) * self.size
        cut = (begin + self.size + end * -1).maximum_with(first + begin * -1)
        once = UOp.range(cut.maximum_with(0).minimum_with(1), AxisKind.REDUCE, next(self.ids))
        tile = _State(plain, self, self.inner)
        put = tile.at(tile.memory.after(self.block)).store(self._at_block(plain, self.block))
        place = tile.at(tile.memory.after(put.end(self.inner), once))
        masked = self._at_block(substitute(score, {plain: place.load()}), self.block)
        done = place.store(masked).end(self.inner).end(once)
        return tile.at(tile.memory.after(done)).load()

    def _sum(self, parts: list[UOp]) -> UOp:
        """The sum of a block's terms: the products of weights and of what these are weights of."""
        columns = frozenset(output_axes(self.found.kernel)) - self.found.rows
        others = [f for f in parts if not f.ranges.isdisjoint(columns)]
        weight = product([f for f in parts if f.ranges.isdisjoint(columns)])
        again = self._again() if self.found.top is None else None
        if again is not None:
            weight = again.where(weight.const_like(0), weight)
        term = self._at_block(weight * product(others) if others else weight, self.block)
        return UOp(Op.REDUCE, term.dtype, (term, self.inner), Op.ADD)

    def _at_block(self, value: UOp, block: UOp) -> UOp:
        """The value at the points of a block."""
        return substitute_ranges(value, {self.found.axis: self._point(block)})

    def _point(self, block: UOp) -> UOp:
        # Where the axis is no multiple of blocks, the last one overlaps the one before.
        begin, n = (self.first + block) * self.size, int(self.found.axis.src[0].arg)
        return self.inner + (begin.minimum_with(n - self.size) if n % self.size else begin)


class _State:
    """A value that goes from one round to the next, and begins as a reduction begins.

    place: its address in a round. inner: an axis of the round that it has an element for, too.
    """

    def __init__(self, node: UOp, loop: _Loop, *inner: UOp) -> None:
        outer = output_axes(loop.found.kernel)
        self.axes = (*(r for r in outer if r in node.ranges), *inner)
        count = math.prod(int(r.src[0].maximum) for r in self.axes)
        self.memory = UOp.buffer(count, node.dtype, slot=next(loop.slots), space=AddressSpace.REG)
        start = identity(node.arg, node.dtype) if node.op is Op.REDUCE else 0
        self.started = self.at(self.memory).store(UOp.const(start, node.dtype)).end(*inner)
        self.place = self.at(self.memory.after(self.started, loop.block))

    def at(self, memory: UOp) -> UOp:
        return memory.index(position(self.axes))
