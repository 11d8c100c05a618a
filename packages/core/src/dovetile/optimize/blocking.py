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

from collections.abc import Sequence
from dataclasses import dataclass

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import reads_memory
from dovetile.optimize.analysis import PAGE, Analysis, access, extent, room, size
from dovetile.optimize.nest import Nest
from dovetile.optimize.opts import Accumulate, Bind, GroupReduce, Opt, Order
from dovetile.plugins.specs import Capabilities

# Cycles to copy an element into a panel, and to read one that passes by from the outer caches.
_COPY, _PASS = 1.5, 1.0
# The body of the innermost loop has at most so many products: several steps of the sum are copied
# into it, as what comes with every iteration takes the place of products.
_MOST_PRODUCTS = 112


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


def schedule(
    facts: Analysis, capabilities: Capabilities, product: UOp, reduced: tuple[UOp, ...], tile: Tile
) -> list[Opt]:
    """The Opts for a contraction by this tile."""
    return _TileNest(facts, capabilities, product, reduced, tile).opts()


class _TileNest(Nest):
    """The loops around a register tile.

    panel, block: the axes of B's panels and of A's blocks; unrolled: that of a panel's vectors.
    batch, others: axes of the output beside those of the tile, which B depends on, and which not.
    summed: the axes of the sum within a part of it.
    """

    def __init__(
        self, facts: Analysis, capabilities: Capabilities, product: UOp, reduced: tuple[UOp, ...],
        tile: Tile,
    ) -> None:  # fmt: skip
        super().__init__(facts, capabilities)
        self.tile, self.reduced, self.product = tile, reduced, product
        self.a, self.b = product.src[1 - tile.operand], product.src[tile.operand]
        self.summed = [r.arg.id for r in reduced]
        self.vector, self.column = tile.vector.arg.id, tile.column.arg.id
        self.panel = self.split(self.vector, tile.width)
        self.unrolled = self.split(self.vector, tile.lanes)
        self.block = self.split(self.column, tile.rows)
        of_b = [r for r in facts.free if r in self.b.ranges]
        self.batch = [r.arg.id for r in of_b if r is not tile.vector]
        of_a = [r for r in facts.free if r not in self.b.ranges]
        self.others = [r.arg.id for r in of_a if r is not tile.column]
        # Only where both operands are matrices for each point of the batch.
        self.blockable = not self.others and all(
            r in self.a.ranges and r in self.b.ranges for r in reduced
        )

    def opts(self) -> list[Opt]:
        """Splits first, then the order of the loops, what they are bound to, and what is held."""
        tile, sizes = self.tile, self.sizes
        near = self.near
        terms = extent(self.reduced)
        panel_bytes = terms * tile.width * self.b.dtype.itemsize
        block_bytes = terms * tile.rows * self.a.dtype.itemsize
        local_bytes = self.capabilities.local_bytes
        pack_a = (
            self.blockable
            and _worth_packing(self.a, self.reduced, self.capabilities)
            and self._read_often()
        )
        in_panels = self.blockable and tile.packed

        steps = None
        # Rows of A that are read in place pass by; panels of both operands stay there together.
        panel_room = near // 8 if pack_a else near
        if in_panels and panel_bytes > panel_room and sizes[self.block] > 1:
            # One panel would push out what it is multiplied with: the sum is done in parts.
            longest = max(self.reduced, key=size)
            each = _divisor_near(size(longest), panel_room // 2 * size(longest) // panel_bytes)
            block_bytes = block_bytes * each // size(longest)
            steps = self.group(longest.arg.id, each)
        copied = self._copied()
        pack_a = pack_a and 4 * block_bytes <= local_bytes // 4
        share = self.share(
            (*self.batch, self.panel, *self.others, self.block),
            tile.cycles,
            {
                self.panel: size(tile.column) * terms * (_COPY if pack_a else self._passing(terms)),
                self.block: size(tile.vector) * terms * _COPY if tile.packed else 0.0,
            },
        )

        panels = blocks = None
        grouped = steps is not None or pack_a
        # Prefetchers follow the rows of A to the end of a page: long ones may come from afar.
        if in_panels and sizes[self.panel] > 1 and terms * self.a.dtype.itemsize < PAGE:
            grouped = grouped or block_bytes * sizes[self.block] > near
        if grouped:
            most = max(room(self.capabilities) // panel_bytes, 1)
            count = max(near // block_bytes, 4)
            if steps is not None:
                # The accumulators stay near too: those of all panels, where that takes blocks half
                # as large at least, as each is packed for every group of panels.
                tiles = tile.rows * tile.width * self.product.dtype.itemsize
                fitting = near // (tiles * min(sizes[self.panel], most))
                if count <= 2 * fitting:
                    count = _even(sizes[self.block], min(count, fitting))
            blocks = self.group(self.block, count)
            if steps is not None:
                most = max(min(most, near // (sizes[self.block] * tiles)), 1)
            panels = self.group(self.panel, most)

        # A group of panels passes all blocks; without groups each panel does, and B is read once.
        inner = [*self.others, blocks, self.panel] if grouped else [self.panel, *self.others]
        loops = [share, *self.batch, panels, *inner, self.block]
        opts = [*self.splits]
        if steps is not None:
            opts.append(GroupReduce((steps,)))
        opts += self._order_and_bind(loops)
        if copied is not None:
            opts.append(Bind(copied, AxisKind.UNROLL))
        if pack_a:
            opts.append(self.stage(1 - tile.operand, share, self._panel_of_a()))
        if tile.packed:
            of_a = {r.arg.id for r in self.reduced if r not in self.b.ranges}
            held = [x for x in self.summed if x not in of_a]
            # All parts of the sum are packed once for all blocks, where there is room for them.
            whole = steps is not None and panel_bytes * sizes[self.panel] <= local_bytes // 2
            held = [*([self.panel] if grouped else []), *([steps] if whole else []), *held]
            opts.append(self.stage(tile.operand, share, (*held, self.unrolled, self.vector)))
        if steps is not None:
            tiles = [x for x in (self.panel, self.block) if x != share]
            opts.append(Accumulate((*tiles, self.column, self.unrolled, self.vector)))
        if share is not None:
            opts.append(Bind(share, AxisKind.THREAD))
        return opts

    def _passing(self, terms: int) -> float:
        """What it costs to read an element of A once more: nothing where A stays in the near
        caches, or prefetchers follow its rows to the end of a page."""
        row = terms * self.a.dtype.itemsize
        stays = row * size(self.tile.column) <= self.near
        return 0.0 if stays or row >= PAGE or not self.blockable else _PASS

    def _read_often(self) -> bool:
        """Whether enough panels of B read a panel of A, which costs a copy: fewer where steps lie
        on a few lines of each page, so that every one of them is waited for."""
        panels = self.sizes[self.panel]
        if panels >= 4 or panels == 1 or self.a.op is not Op.LOAD:
            return panels >= 4
        strides = [access(self.a).stride(r) for r in self.reduced]
        nearest = min((abs(s) for s in strides if s is not None), default=0)
        far = nearest * self.a.dtype.itemsize >= PAGE // 4
        return far and panels * self.tile.vectors >= 4

    def _order_and_bind(self, loops: Sequence[int | None]) -> list[Opt]:
        ordered = dict.fromkeys(x for x in loops if x is not None)
        return [
            Order((*ordered, self.column, self.unrolled, self.vector)),
            Bind(self.vector, AxisKind.VECTOR),
            Bind(self.unrolled, AxisKind.UNROLL),
            Bind(self.column, AxisKind.UNROLL),
        ]

    def _copied(self) -> int | None:
        """The axis of the sum's last steps, of which the innermost loop has copies."""
        last = self.summed[-1]
        most = _MOST_PRODUCTS // (self.tile.rows * self.tile.vectors)
        n = self.sizes[last]
        if last in self.ragged:
            return None
        if 1 < n <= most and len(self.summed) > 1:
            return last
        found = [d for d in range(2, min(most, n - 1, 4) + 1) if n % d == 0]
        if not found:
            return None
        self.summed.insert(-1, self.split(last, found[-1]))
        return last

    def _panel_of_a(self) -> tuple[int, ...]:
        """The axes of A's panel: the one along which A is contiguous comes last, which makes copies
        of whole vectors; steps near each other otherwise."""
        loads = [access(n) for n in self.a.toposort() if n.op is Op.LOAD]
        steps = tuple(self.summed)
        along = any(x.stride(r) == 1 for x in loads for r in self.reduced)
        return (self.block, self.column, *steps) if along else (self.block, *steps, self.column)


def _worth_packing(a: UOp, reduced: tuple[UOp, ...], capabilities: Capabilities) -> bool:
    """Whether the tile should read A from a panel: where its elements are computed, or lie such
    that the caches serve them badly; not where windows overlap: a panel would have many copies."""
    loads = [n for n in a.toposort() if n.op is Op.LOAD]
    if any(extent(n.ranges) > n.src[0].src[0].arg.size for n in loads):
        return False
    if not reads_memory(a):
        return True
    found = access(a)
    steps = [found.stride(r) for r in reduced]
    near = min((abs(s) for s in steps if s is not None), default=0)
    return None in steps or near * a.dtype.itemsize >= capabilities.line_bytes


def _even(n: int, most: int) -> int:
    """The size of the fewest groups of n with at most so many each, all about as large."""
    return -(-n // -(-n // most))


def _divisor_near(n: int, wanted: int) -> int:
    """The divisor of n nearest to `wanted` within a factor of two, or else `wanted`."""
    wanted = min(max(wanted, 16), n)
    found = [d for d in range(max(wanted // 2, 1), min(2 * wanted, n) + 1) if n % d == 0]
    return min(found, key=lambda d: abs(d - wanted), default=wanted)
