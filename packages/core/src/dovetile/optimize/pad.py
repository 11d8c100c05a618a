"""The Opt that makes a reduced axis longer, with products of zeros."""

from __future__ import annotations

from dataclasses import dataclass

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.linear import plain, reads_memory
from dovetile.optimize.opts import OptError, axis, output_axes, rewrite_listed


@dataclass(frozen=True)
class Pad:
    """Rounds the length of an axis, over which products are summed up, to a multiple of `size`.
    Nothing is read beyond the old length: there, both operands are zero."""

    axis: int
    size: int

    def apply(self, kernel: UOp) -> UOp:
        old = axis(kernel, self.axis)
        plain = old.arg.kind is AxisKind.REDUCE and old not in output_axes(kernel)
        if not plain or not old.src[0].is_const or old.src[0].arg % self.size == 0:
            raise OptError(
                f"[Pad] size {self.size} of axis {self.axis}; right is a reduced axis of a "
                "constant length that is no multiple of it"
            )
        n = old.src[0].arg
        new = UOp.range(-(-n // self.size) * self.size, old.arg.kind, self.axis)
        changes = {}
        for node in nodes_of(kernel):
            if node.op is Op.REDUCE and old in node.src[1:]:
                product = node.src[0]
                if node.arg is not Op.ADD or product.op is not Op.MUL:
                    raise OptError(f"[Pad] axis {self.axis} is not that of a sum of products")
                sides = [_zero_beyond(side, old, new, new < n) for side in product.src]
                ranges = tuple(new if r is old else r for r in node.src[1:])
                changes[node] = node.replace(src=(product.replace(src=tuple(sides)), *ranges))
        return rewrite_listed(kernel, changes)


def _zero_beyond(value: UOp, old: UOp, new: UOp, gate: UOp) -> UOp:
    """The value along the new axis, zero where the gate is false; casts stay outside."""
    if value.op is Op.CAST:
        return value.replace(src=(_zero_beyond(value.src[0], old, new, gate),))
    moved = substitute_ranges(value, {old: new})
    loads = [n for n in nodes_of(moved) if n.op is Op.LOAD and new in n.ranges]
    gated = {}
    for load in loads:
        inner = gate if reads_memory(load) else load.src[2] & gate
        other = load.const_like(0) if reads_memory(load) else load.src[1]
        gated[load] = plain(load).replace(src=(load.src[0], other, inner))
    changed = substitute(moved, gated)
    if moved in gated and changed.src[1].is_const and changed.src[1].arg == 0:
        return changed
    return gate.where(changed, 0)
