"""The loops around a register tile: what keeps the operands of a contraction in the caches.

With B's vectors along one output axis and A's elements along another, from the outside in:

    parts         the workers' shares of the panels of B, or of the blocks of A
    batch         axes of both operands
    panels        a group of panels of B: packed together, as many as the outer caches hold
    steps         only for long sums: a part of the sum, with accumulators in memory
    blocks        a group of blocks of A that stays in the second cache
    panel, block  one panel stays in the inner caches while all blocks of the group pass

Everything small is left out: a group of one is no loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp
from dovetile.optimize.analysis import Analysis, access, extent, size
from dovetile.optimize.opts import Accumulate, Bind, GroupReduce, Opt, Order, Split, Stage
from dovetile.plugins.specs import Capabilities

# Less work than this is not worth waking another worker.
_PARALLEL_WORK = 200_000
# Cycles to copy an element into a panel.
_COPY = 1.5
# Rows at multiples of a page fall into few places of a cache, and push each other out in long sums.
_PAGE, _LONG = 4096, 1536


@dataclass(frozen=True)
class Tile:
    """A choice of axes and sizes."""

    operand: int
    """Which side of the product is B, whose vectors the tile loads."""
    vector: UOp
    lanes: int
    vectors: int
    column: UOp
    rows: int
    packed: bool
    """Whether B is read from a LOCAL panel."""
    cycles: float

    @property
    def width(self) -> int:
        return self.lanes * self.vectors


@dataclass
class _Nest:
    """The schedule in the making: Opts so far, and sizes of the axes."""

    fresh: int
    sizes: dict[int, int]
    opts: list[Opt] = field(default_factory=list)

    def split(self, axis: int, into: int, ragged: str = "overlap") -> int:
        """The new outer axis; the axis itself keeps `into`."""
        self.opts.append(Split(axis, into, ragged))
        outer, self.fresh = self.fresh, self.fresh + 1
        self.sizes[outer] = -(-self.sizes[axis] // into)
        self.sizes[axis] = into
        return outer

    def group(self, axis: int, into: int) -> int | None:
        """The axis of groups of `into`; None where one group has all."""
        return self.split(axis, into, "short") if into < self.sizes[axis] else None


def schedule(
    facts: Analysis, capabilities: Capabilities, product: UOp, reduced: tuple[UOp, ...], tile: Tile
) -> list[Opt]:
    """The Opts for a contraction by this tile."""
    a, b = product.src[1 - tile.operand], product.src[tile.operand]
    sizes = {r.arg.id: size(r) for r in (*facts.outputs, *reduced)}
    nest = _Nest(max(sizes) + 1, sizes)
    v, c = tile.vector.arg.id, tile.column.arg.id
    panel = nest.split(v, tile.width)
    unrolled = nest.split(v, tile.lanes)
    block = nest.split(c, tile.rows)
    batch = [r.arg.id for r in facts.free if r in b.ranges and r is not tile.vector]
    others = [r.arg.id for r in facts.free if r not in b.ranges and r is not tile.column]

    caches = capabilities.cache_bytes or (1 << 15,)
    near, outer = caches[min(1, len(caches) - 1)] // 2, caches[-1]
    panel_bytes = extent(reduced) * tile.width * b.dtype.itemsize
    block_bytes = extent(reduced) * tile.rows * a.dtype.itemsize
    simple = bool(others) or any(not (r in a.ranges and r in b.ranges) for r in reduced)
    pack_a = not simple and nest.sizes[panel] >= 4 and _worth_packing(a, reduced, capabilities)
    steps = None
    whole_bytes = panel_bytes
    if not simple and tile.packed and panel_bytes > near // 4 and nest.sizes[block] > 1:
        # One panel would push out what it is multiplied with: the sum is done in parts.
        longest = max(reduced, key=size)
        part = _divisor_near(size(longest), near // 8 * size(longest) // panel_bytes)
        panel_bytes = panel_bytes * part // size(longest)
        block_bytes = block_bytes * part // size(longest)
        steps = nest.group(longest.arg.id, part)
    pack_a = pack_a and 4 * block_bytes <= capabilities.local_bytes // 4

    share = None
    if _parallel(facts, capabilities):
        rows, columns = size(tile.column), size(tile.vector)
        repeated = {  # what every share packs again
            panel: rows * extent(reduced) * _COPY if pack_a else 0.0,
            block: columns * extent(reduced) * _COPY if tile.packed else 0.0,
        }
        loops = [*batch, panel, *others, block]
        share = _share(nest, loops, repeated, tile, capabilities.threads)

    panels = blocks = None
    grouped = steps is not None or pack_a
    if not simple and tile.packed and nest.sizes[panel] > 1:
        grouped = grouped or block_bytes * nest.sizes[block] > near
    if grouped:
        blocks = nest.group(block, max(near // block_bytes, 4))
        most = min(outer // 8, capabilities.local_bytes // 4) // whole_bytes
        if steps is not None:  # the accumulators stay near too
            tiles = tile.rows * tile.width * product.dtype.itemsize
            most = min(most, near // (nest.sizes[block] * tiles))
        panels = nest.group(panel, max(most, 1))
    order = [*batch, panels, *others, blocks, panel, block]
    if not grouped:
        order = [*batch, panel, *others, block]
    loops = [x for x in (share, *order) if x is not None]

    opts = nest.opts
    if steps is not None:
        opts.append(GroupReduce((steps,)))
    opts.append(Order((*dict.fromkeys(loops), c, unrolled, v)))
    opts.append(Bind(v, AxisKind.VECTOR))
    opts.append(Bind(unrolled, AxisKind.UNROLL))
    opts.append(Bind(c, AxisKind.UNROLL))
    last = reduced[-1]
    if tile.rows * tile.vectors * size(last) <= 48 and len(reduced) > 1:
        opts.append(Bind(last.arg.id, AxisKind.UNROLL))
    if pack_a:
        axes = _panel_of_a(a, reduced, block, c)
        opts.append(Stage(1 - tile.operand, tuple(x for x in axes if x != share)))
    if tile.packed:
        held = tuple(r.arg.id for r in reduced if r in b.ranges)
        # All parts of the sum are packed once for all blocks, where there is room for them.
        if steps is not None and whole_bytes * nest.sizes[panel] <= capabilities.local_bytes // 2:
            held = (steps, *held)
        group = (panel,) if grouped and panel != share else ()
        opts.append(Stage(tile.operand, (*group, *held, unrolled, v)))
    if steps is not None:
        held = tuple(x for x in (panel, block) if x != share)
        opts.append(Accumulate((*held, c, unrolled, v)))
    if share is not None:
        opts.append(Bind(share, AxisKind.THREAD))
    return opts


def _worth_packing(a: UOp, reduced: tuple[UOp, ...], capabilities: Capabilities) -> bool:
    """Whether the tile should read A from a panel: where its elements are computed, or lie such
    that the caches serve them badly; not where windows overlap: a panel would have many copies."""
    loads = [n for n in a.toposort() if n.op is Op.LOAD]
    if any(extent(n.ranges) > n.src[0].src[0].arg.size for n in loads):
        return False
    if a.op is not Op.LOAD or len(a.src) > 1:
        return True
    steps = [access(a).stride(r) for r in reduced]
    near = min((abs(s) for s in steps if s is not None), default=0)
    if None in steps or near * a.dtype.itemsize >= capabilities.line_bytes:
        return True
    rows = [s for r, s in access(a).strides.items() if r not in reduced and s]
    return any(s * a.dtype.itemsize % _PAGE == 0 for s in rows) and extent(reduced) >= _LONG


def _panel_of_a(a: UOp, reduced: tuple[UOp, ...], block: int, column: int) -> tuple[int, ...]:
    """The axes of A's panel: the one along which A is contiguous comes last, which makes copies of
    whole vectors; steps near each other otherwise."""
    loads = [access(n) for n in a.toposort() if n.op is Op.LOAD]
    steps = tuple(r.arg.id for r in reduced)
    along = any(x.stride(r) == 1 for x in loads for r in reduced)
    return (block, column, *steps) if along else (block, *steps, column)


def _divisor_near(n: int, wanted: int) -> int:
    """The divisor of n nearest to `wanted` within a factor of two, or else `wanted`."""
    wanted = min(max(wanted, 16), n)
    found = [d for d in range(max(wanted // 2, 1), min(2 * wanted, n) + 1) if n % d == 0]
    return min(found, key=lambda d: abs(d - wanted), default=wanted)


def _parallel(facts: Analysis, capabilities: Capabilities) -> bool:
    several = "THREAD" in capabilities.parallel_axes and capabilities.threads > 1
    return several and facts.work >= _PARALLEL_WORK


def _share(
    nest: _Nest, loops: list[int], repeated: dict[int, float], tile: Tile, threads: int
) -> int | None:
    """Splits an axis into the parts that the workers take, such that all of them end at about the
    same time and little is packed twice; returns the axis of parts."""
    best: tuple[float, int, int] | None = None
    for axis in loops:
        n = nest.sizes[axis]
        for parts in {min(n, threads * k) for k in (1, 2, 4)}:
            each = -(-n // parts)
            parts = -(-n // each)
            if parts < 2:
                continue
            busy = -(-parts // threads) * each / n
            time = tile.cycles * busy + repeated.get(axis, 0.0) * -(-parts // threads)
            # More parts than workers even out what disturbs one of them.
            time *= 1 - 0.01 * min(parts // threads, 4)
            if best is None or time < best[0]:
                best = (time, axis, each)
    if best is None:
        return None
    _, axis, each = best
    if each > 1:
        return nest.split(axis, each, "short")
    nest.sizes[axis] = 1  # for each worker
    return axis
