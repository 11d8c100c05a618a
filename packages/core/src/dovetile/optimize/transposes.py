"""Heuristics for kernels on workgroups that load along one axis and store along another.

A transpose, say: whichever axis neighbouring threads take, either loads or stores would be one
element of each line that they touch. So a workgroup takes a tile of both axes: it loads the tile as
it lies in memory, into LOCAL memory, and reads it from there as it is stored.
"""

from __future__ import annotations

from dovetile.ir.ops import AxisKind
from dovetile.ir.uop import UOp
from dovetile.optimize.analysis import Access, Analysis, power_of_two_up_to, size
from dovetile.optimize.nest import Nest
from dovetile.optimize.opts import Bind, Opt, Order
from dovetile.optimize.stage_load import StageLoad
from dovetile.plugins.specs import Capabilities

# Elements of a tile along each axis where both are so long, threads that move it, and the shortest
# axis that is worth a tile.
_SIDE, _THREADS, _SHORTEST = 64, 256, 8


def transpose_opts(facts: Analysis, capabilities: Capabilities) -> list[Opt] | None:
    """The schedule of such a kernel; None for others."""
    if facts.reductions or not facts.idempotent or not capabilities.supports_barrier:
        return None
    free = [r for r in facts.free if r.src[0].is_const and size(r) >= _SHORTEST]
    along = next((r for r in free if all(a.stride(r) == 1 for a in facts.stores)), None)
    if along is None:
        return None
    weights = {r: sum(map(_nbytes, _crossing(facts, along, r))) for r in free if r is not along}
    across = max(weights, key=lambda r: weights[r], default=None)
    if across is None or 4 * weights[across] < sum(map(_nbytes, facts.stores)):
        return None
    return _Tile(facts, capabilities, along, across).opts()


def _crossing(facts: Analysis, along: UOp, across: UOp) -> list[Access]:
    """The loads that have `across` contiguous, and neighbours along `along` far from each other."""
    return [
        a for a in facts.loads
        if a.stride(across) == 1 and abs(a.stride(along) or 0) > 1 and along not in a.opaque
    ]  # fmt: skip


def _nbytes(access: Access) -> int:
    return access.count * access.buffer.dtype.itemsize


class _Tile(Nest):
    """The loops of a kernel that moves tiles of these two axes."""

    def __init__(
        self, facts: Analysis, capabilities: Capabilities, along: UOp, across: UOp
    ) -> None:
        super().__init__(facts, capabilities)
        self.along, self.across = along, across

    def opts(self) -> list[Opt]:
        facts, along, across = self.facts, self.along.arg.id, self.across.arg.id
        wide, high = _sides(size(self.along), size(self.across))
        others = [r.arg.id for r in facts.outputs if r not in (self.along, self.across)]
        # Workgroups next to each other load from the same rows: stores can wait, loads cannot.
        over, beside = self.group(across, high, "masked"), self.group(along, wide, "masked")
        grid = [*others, beside, over]
        # Lanes and threads side by side; further rows are each thread's copies, far enough apart
        # for neighbouring threads to have neighbouring rows.
        lanes = min(wide, self._lanes())
        vectors = self.group(along, lanes) if lanes > 1 else along
        most = min(_THREADS, self.capabilities.group_threads)
        columns = wide // lanes
        rows = min(max(most // columns, 1), high)
        copies = self.group(across, rows)
        inner = [copies, across, vectors, along if lanes > 1 else None]
        opts: list[Opt] = [*self.splits, Order(tuple(x for x in (*grid, *inner) if x is not None))]
        opts += [Bind(x, AxisKind.GROUP) for x in grid if x is not None]
        kinds = (AxisKind.UNROLL, AxisKind.LOCAL, AxisKind.LOCAL, AxisKind.VECTOR)
        opts += [Bind(x, kind) for x, kind in zip(inner, kinds) if x is not None]
        held = [vectors, along if lanes > 1 else None, copies, across]
        crossing = {a.node for a in _crossing(facts, self.along, self.across)}
        numbers = [i for i, a in enumerate(facts.loads) if a.node in crossing]
        axes = tuple(x for x in held if x is not None)
        return opts + [StageLoad(i, axes) for i in numbers]

    def _lanes(self) -> int:
        """Elements of a vector along the stored axis."""
        near = [a for a in self.facts.accesses if a.stride(self.along) == 1]
        lanes = self.capabilities.vector_bytes // max(a.buffer.dtype.itemsize for a in near)
        return max(lanes, 1)


def _sides(along: int, across: int) -> tuple[int, int]:
    """The sides of a tile: where one axis is short, longer along the other."""
    wide = min(_SIDE, power_of_two_up_to(along))
    high = min(_SIDE * _SIDE // wide, power_of_two_up_to(across))
    return min(_SIDE * _SIDE // high, power_of_two_up_to(along)), high
