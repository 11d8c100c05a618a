"""The loops around a tile: how they are split, shared out to the workers, and what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dovetile.ir.ops import Op
from dovetile.optimize.analysis import TILE_SPEED, Analysis, size
from dovetile.optimize.opts import Opt, Split, Stage
from dovetile.plugins.specs import Capabilities


class Nest:
    """The loops of one contraction. Axes are named by their ids; None where a loop is not needed.

    sizes: of every axis as it is after `splits`; ragged: those whose last part is shorter.
    """

    def __init__(self, facts: Analysis, capabilities: Capabilities) -> None:
        self.facts, self.capabilities = facts, capabilities
        self.sizes = {r.arg.id: size(r) for r in facts.nodes if r.op is Op.RANGE}
        self.fresh = max(self.sizes) + 1
        self.splits: list[Opt] = []
        self.ragged: set[int] = set()

    @property
    def near(self) -> int:
        """Bytes of the inner caches that what passes again and again may fill."""
        caches = self.capabilities.cache_bytes or (1 << 15,)
        return caches[min(1, len(caches) - 1)] // 2

    def split(self, axis: int, into: int, ragged: str = "overlap") -> int:
        """The new outer axis; the axis itself keeps `into`."""
        self.splits.append(Split(axis, into, ragged))
        outer, self.fresh = self.fresh, self.fresh + 1
        if self.sizes[axis] % into and ragged == "short":
            self.ragged.add(axis)
        self.sizes[outer] = -(-self.sizes[axis] // into)
        self.sizes[axis] = into
        return outer

    def group(self, axis: int | None, into: int, ragged: str = "short") -> int | None:
        """The axis of groups of `into`; None where one group has all."""
        if axis is None or into >= self.sizes[axis]:
            return None
        return self.split(axis, into, ragged)

    def stage(self, operand: int, share: int | None, axes: Iterable[int | None]) -> Stage:
        """Holds an operand for these axes; each worker holds its own share."""
        return Stage(operand, tuple(x for x in axes if x is not None and x != share))

    def share(
        self, axes: Iterable[int | None], cycles: float, again: Mapping[int | None, float]
    ) -> int | None:
        """Splits one of the axes into the parts that the workers take, such that all of them end at
        about the same time and little is packed twice; returns the axis of parts.

        cycles: of the whole kernel. again: those for what every part of an axis packs again.
        """
        if not self.facts.worth_sharing(self.capabilities, TILE_SPEED):
            return None
        threads = self.capabilities.threads
        best: tuple[float, int, int] | None = None
        for axis in axes:
            if axis is None:
                continue
            n = self.sizes[axis]
            for parts in {min(n, threads * k) for k in (1, 2, 4)}:
                each = -(-n // parts)
                parts = -(-n // each)
                if parts < 2:
                    continue
                rounds = -(-parts // threads)
                time = cycles * rounds * each / n + again.get(axis, 0.0) * rounds
                # More parts than workers even out what disturbs one of them.
                time *= 1 - 0.01 * min(parts // threads, 4)
                if best is None or time < best[0]:
                    best = (time, axis, each)
        if best is None:
            return None
        _, axis, each = best
        if each > 1:
            return self.split(axis, each, "short")
        self.sizes[axis] = 1  # for each worker
        return axis
