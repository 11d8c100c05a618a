"""The Opt that makes several axes one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp, nodes_of
from dovetile.optimize.opts import OptError, axis, replace_axes, simplify


@dataclass(frozen=True)
class Fuse:
    """Axes -> one of all their points, the last of them moving first: it keeps the id of that one,
    and the place of the first. So blocks of an axis need not end where one of these does: the rows
    that a unit multiplies are places of an image, and go on in the next line."""

    axes: tuple[int, ...]

    def apply(self, kernel: UOp) -> UOp:
        named = [axis(kernel, id) for id in self.axes]
        kinds = {r.arg.kind for r in named}
        if len(set(named)) < 2 or len(kinds) > 1 or not kinds <= {AxisKind.LOOP, AxisKind.REDUCE}:
            raise OptError(f"[Fuse] axes {self.axes}; right are several loops of one kind")
        if any(not r.src[0].is_const for r in named):
            raise OptError(f"[Fuse] axes {self.axes} are not all of constant size")
        for node in nodes_of(kernel):
            if node.op in (Op.END, Op.REDUCE, Op.STAGE):
                listed = [r for r in node.src[1:] if r in named]
                if listed and len(listed) < len(named):
                    raise OptError(f"[Fuse] axes {self.axes} are not of the same loops")
        sizes = [r.src[0].arg for r in named]
        fused = UOp.range(math.prod(sizes), named[0].arg.kind, self.axes[-1])
        values, stride = {}, 1
        for r, n in zip(reversed(named), reversed(sizes)):
            whole = fused // stride if stride > 1 else fused
            values[r], stride = (whole % n if r is not named[0] else whole), stride * n
        lists: dict[UOp, tuple[UOp, ...]] = {named[0]: (fused,)}
        lists.update(dict.fromkeys(named[1:], ()))
        # Where they were one in memory, the places are those of one again; not so in blocks of it.
        return simplify(replace_axes(kernel, values, lists))
