"""The Opt by which workgroups stay, and do one block of the grid after another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dovetile.ir.ops import AxisKind
from dovetile.ir.uop import UOp
from dovetile.optimize.opts import OptError, next_id, output_axes, replace_axes


@dataclass(frozen=True)
class Persist:
    """Lets so many workgroups do all blocks of the grid in turn, so that what a block needs first
    can be fetched while the block before it is finished."""

    workgroups: int

    def apply(self, kernel: UOp) -> UOp:
        grid = [r for r in output_axes(kernel) if r.arg.kind is AxisKind.GROUP]
        total, count = math.prod(r.src[0].arg for r in grid), self.workgroups
        if not 1 <= count < total:
            raise OptError(f"[Persist] {count} workgroups for a grid of {total}")
        fresh = next_id(kernel)
        group = UOp.range(count, AxisKind.GROUP, fresh)
        turn = UOp.range((group * -1 + (total + count - 1)) // count, AxisKind.LOOP, fresh + 1)
        flat = turn * count + group
        # No turn is beyond the end; a proof of it needs to be told.
        rest = flat.minimum_with(total - 1) if total % count else flat
        values, stride = {}, 1
        for r in reversed(grid):
            size = r.src[0].arg
            digit = rest // stride if stride > 1 else rest
            values[r] = digit % size if stride * size < total else digit
            stride *= size
        first, *others = grid
        return replace_axes(kernel, values, {first: (group, turn), **dict.fromkeys(others, ())})
