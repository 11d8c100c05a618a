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
from dovetile.optimize.visible import visible


@dataclass(frozen=True)
class OnlineRegisters:
    """Closes the dependent reductions of a kernel together, `size` points of the reduced axis at a
    time.

    rows: axes that blocks are not cut for: what no point of them needs is skipped.
    """

    rows: tuple[int, ...]
    size: int

    def apply(self, kernel: UOp) -> UOp:
        found = closing(kernel)
        if found is None:
            raise OptError("[OnlineRegisters] no reductions of the kernel can share one loop")
        if not 1 <= self.size <= found.axis.src[0].arg:
            n = found.axis.src[0].arg
            raise OptError(f"[OnlineRegisters] blocks of {self.size}; the axis has {n}")
        rows = frozenset(axis(found.kernel, id) for id in self.rows)
        return _Loop(found, rows, self.size).kernel()


class _Loop:
    """The loop over blocks of the reduced axis."""

    def __init__(self, found: Closing, rows: frozenset[UOp], size: int) -> None:
        self.found = found
        ids, self.slots = unused_ids(found.kernel), unused_slots(found.kernel)
        n = int(found.axis.src[0].arg)
        first, end = visible(found.score, found.axis, rows)
        first, end = first // size, (end + (size - 1)) // size
        self.block = UOp.range((end + first * -1).maximum_with(0), AxisKind.REDUCE, next(ids))
        self.inner = UOp.range(size, AxisKind.REDUCE, next(ids))
        begin = (first + self.block) * size
        # The last block overlaps the one before it: what that has counted is masked.
        self.point = self.inner + (begin.minimum_with(n - size) if n % size else begin)
        self.counted = begin if n % size else None

    def kernel(self) -> UOp:
        found, effects = self.found, []
        score, scale = unscaled(found.score)
        score = substitute_ranges(score, {found.axis: self.point})
        if self.counted is not None:
            again = self.point < self.counted
            score = again.where(UOp.const(-math.inf, score.dtype), score)
        states = {node: self._state(node) for node in (found.top, *(n for n, _ in found.sums))}
        address = states[found.top][1]
        old = address.load()
        new = old.maximum_with(UOp(Op.REDUCE, score.dtype, (score, self.inner), Op.MAX))
        effects.append(address.store(new))
        # Where all scores so far are minus infinity there is no difference to a maximum: any finite
        # number in its place gives weights of 0.
        safe = new.eq(-math.inf).where(new.const_like(0), new)
        for node, k in found.sums:
            address = states[node][1]
            correction = ((safe - old) * (k * scale)).alu(Op.EXP2).cast(node.dtype)
            total = self._sum(node, score, safe, scale)
            effects.append(address.store(address.load() * correction + total))
        done = UOp.group(*effects).end(self.block)
        results = {n: self._at(memory.after(done), n).load() for n, (memory, _) in states.items()}
        results[found.top] = results[found.top] * scale
        return substitute(found.kernel, results)

    def _state(self, node: UOp) -> tuple[UOp, UOp]:
        """Memory for a running reduction, and its address inside of the loop."""
        axes = self._axes(node)
        count = math.prod(int(r.src[0].maximum) for r in axes)
        memory = UOp.buffer(count, node.dtype, slot=next(self.slots), space=AddressSpace.REG)
        start = UOp.const(identity(node.arg, node.dtype), node.dtype)
        started = self._at(memory, node).store(start)
        return memory, self._at(memory.after(started, self.block), node)

    def _axes(self, node: UOp) -> tuple[UOp, ...]:
        return tuple(r for r in output_axes(self.found.kernel) if r in node.ranges)

    def _at(self, memory: UOp, node: UOp) -> UOp:
        axes = self._axes(node)
        return memory.index(position(axes, [int(r.src[0].maximum) for r in axes]))

    def _sum(self, node: UOp, score: UOp, safe: UOp, scale: float) -> UOp:
        """The sum of a block's terms, weights apart from what they are weights of."""
        found = self.found
        columns = frozenset(output_axes(found.kernel)) - found.rows
        parts = factors(terms_of(node, found, score, safe, scale))
        parts = [substitute_ranges(part, {found.axis: self.point}) for part in parts]
        weight = product([f for f in parts if f.ranges.isdisjoint(columns)])
        others = [f for f in parts if not f.ranges.isdisjoint(columns)]
        term = weight * product(others) if others else weight
        return UOp(Op.REDUCE, node.dtype, (term, self.inner), Op.ADD)
