"""The Opt that holds what a kernel loads in LOCAL memory.

Threads that read an element are then not those that load it: neighbours load what lies side by side
in one order, and read what belongs side by side in another.
"""

from __future__ import annotations

from dataclasses import dataclass

from dovetile.ir.ops import AddressSpace, AxisKind
from dovetile.ir.rewrite import substitute
from dovetile.ir.uop import UOp
from dovetile.optimize.opts import OptError, loads


@dataclass(frozen=True)
class StageLoad:
    """Holds what one LOAD reads for all points of some axes.

    load: its number among the LOADs of the kernel.
    """

    load: int
    axes: tuple[int, ...]
    space: AddressSpace = AddressSpace.LOCAL

    def apply(self, kernel: UOp) -> UOp:
        found = loads(kernel)
        if not 0 <= self.load < len(found):
            raise OptError(f"[StageLoad] load {self.load}; the kernel has {len(found)}")
        load = found[self.load]
        named = {r.arg.id: r for r in load.ranges}
        if missing := [i for i in self.axes if i not in named]:
            raise OptError(f"[StageLoad] load {self.load} does not depend on axes {missing}")
        copied = (AxisKind.UNROLL, AxisKind.VECTOR)
        if left := [i for i, r in named.items() if r.arg.kind in copied and i not in self.axes]:
            raise OptError(f"[StageLoad] axes {sorted(left)} are copies or lanes; hold those too")
        ranges = tuple(named[i] for i in self.axes)
        return substitute(kernel, {load: load.stage(*ranges, space=self.space)})
