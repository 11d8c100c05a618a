"""Heuristics for contractions on matrix units that several threads use together.

A workgroup has a few units of rows above each other. For every step of the sum, as long as the rows
of the unit's panels, both operands are copied to LOCAL memory, some steps ahead where the target
can copy while it computes. What follows the sum is done on the digits that each thread holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from dovetile import dtypes
from dovetile.environment import MATMUL_PRECISION
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.rewrite import rewrite, substitute_ranges
from dovetile.ir.symbolic import linear_form, simplify_index
from dovetile.ir.uop import UOp
from dovetile.lower.group_units import operand_of
from dovetile.optimize.analysis import Access, Analysis, access, extent, size
from dovetile.optimize.exchange import Exchange
from dovetile.optimize.fuse import Fuse
from dovetile.optimize.nest import Nest
from dovetile.optimize.opts import (
    Bind,
    Opt,
    Order,
    Split,
    Stage,
    apply_opts,
    contracted_product,
    next_id,
)
from dovetile.optimize.pad import Pad
from dovetile.optimize.use_group_unit import UseGroupUnit, numbered, unit_axes
from dovetile.optimize.use_matrix_unit import fits
from dovetile.plugins.matrix_unit import PIECE_BYTES, ROW_BYTES, GroupUnit
from dovetile.plugins.specs import Capabilities

# Places for the panels of so many steps: one is multiplied while the others are filled.
_LEAST_PLACES, _MOST_PLACES = 3, 8
_RESERVE = 2 << 10  # bytes of LOCAL memory for what else a workgroup needs
# What a thread holds of its units: as much as leaves registers for anything else.
_MOST_LANES = 128
# (units above each other, units of the same threads, workgroups at a time)
_SHAPES = ((2, 1, 1), (1, 1, 1), (2, 2, 1), (1, 2, 2), (1, 1, 2))
# What it takes to read a row or a column of an operand, in elements of a block; and to put it
# together from single elements.
_READ, _GATHERED = 40, 400
# Fewer steps are over before a block has been read and stored: while one workgroup waits for memory
# another one must compute.
_FEW_STEPS = 8


def group_unit_opts(facts: Analysis, capabilities: Capabilities) -> list[Opt] | None:
    """The schedule of a contraction on a unit of several threads, or None where none fits."""
    product = contracted_product(facts.kernel)
    if product is None or not facts.idempotent or len(facts.reductions) != 1:
        return None
    total = facts.reductions[0]
    if total.src[0] is not product or total.arg is not Op.ADD:
        return None
    if any(not r.src[0].is_const for r in (*facts.outputs, *total.src[1:])):
        return None
    found: list[tuple[float, bool, bool, list[Opt], _UnitBlockNest]] = []
    for first in _fused(facts, product):
        changed = Analysis(apply_opts(facts.kernel, first)) if first else facts
        across = changed.stores[0]
        # Threads hold neighbours along the columns: best where the output is contiguous there. What
        # ends behind the end of an axis is stored as they hold it.
        found += (
            (b.price(changed, capabilities), b.is_masked, across.stride(b.column) != 1, first,
             _UnitBlockNest(changed, capabilities, b))
            for b in _unit_blocks(changed, capabilities, len(total.src) > 2)
        )  # fmt: skip
    best = min(found, key=lambda x: x[:3], default=None)
    return None if best is None else [*best[3], *best[4].opts()]


def _fused(facts: Analysis, product: UOp) -> Iterator[list[Opt]]:
    """Opts by which a sum has one loop around a step of a unit; and those by which, besides, all
    axes are one that only one operand has, as the places of images."""
    (total,) = facts.reductions
    first: list[Opt] = []
    depths = list(total.src[1:])
    loads = [access(x) for x in map(operand_of, product.src) if x.op is Op.LOAD]
    step = ROW_BYTES // max((x.node.dtype.itemsize for x in loads), default=1)
    for r in depths:
        if len(depths) > 1 and size(r) % step == 0 and all(x.stride(r) == 1 for x in loads):
            around = [x.arg.id for x in depths if x is not r]
            if size(r) > step:
                first.append(Split(r.arg.id, step))
                around.append(next_id(facts.kernel))
            first += [Fuse(tuple(around))] if len(around) > 1 else []
            break
    if not first and len(depths) > 1:
        # No axis has whole steps: all of them are one, as long as steps are.
        first = [Fuse(tuple(r.arg.id for r in depths))]
        if extent(tuple(depths)) % step:
            first.append(Pad(depths[-1].arg.id, step))
    yield first
    sides = [
        [r.arg.id for r in facts.free if r in own.ranges and r not in other.ranges]
        for own, other in (product.src, product.src[::-1])
    ]
    if any(len(side) > 1 for side in sides):
        yield [*first, *(Fuse(tuple(side)) for side in sides if len(side) > 1)]


@dataclass(frozen=True)
class UnitBlock:
    """A unit, the axes for it, and how many units of rows a workgroup has."""

    unit: GroupUnit
    operand: int
    row: UOp
    column: UOp
    depth: UOp
    down: int
    """Units of rows above each other, each of threads of its own."""
    over: int
    """Of the same threads: how many such units each has."""
    resident: int
    """How many workgroups share what can run at a time."""
    gathers: bool
    """Whether pieces of an operand's rows lie apart in memory."""

    @property
    def rows(self) -> int:
        return self.unit.rows * self.down * self.over

    def places(self, capabilities: Capabilities) -> int:
        """For how many steps of the sum there is LOCAL memory."""
        step = (self.rows + self.unit.columns) * ROW_BYTES
        return min((capabilities.local_bytes // self.resident - _RESERVE) // step, _MOST_PLACES)

    def depth_of_panels(self, steps: int, capabilities: Capabilities) -> int:
        """For how many steps the panels have places: no more than what is filled ahead of them."""
        if steps == 1 or self.gathers or not capabilities.asynchronous_copies:
            return 1
        return min(self.places(capabilities), max(steps + 1, _LEAST_PLACES))

    def groups(self, facts: Analysis) -> int:
        """How many workgroups there are."""
        others = extent(facts.outputs) // (size(self.row) * size(self.column))
        return others * -(-size(self.row) // self.rows) * -(-size(self.column) // self.unit.columns)

    @property
    def is_masked(self) -> bool:
        """Whether the axis has fewer rows than the block, but most of them."""
        return self.rows > size(self.row) >= self.rows // 2

    def fits(self, capabilities: Capabilities) -> bool:
        return (
            self.over * self.unit.lanes <= _MOST_LANES
            and self.places(capabilities) >= _LEAST_PLACES
            and (self.rows <= size(self.row) or self.is_masked)
        )

    def waits(self, facts: Analysis, capabilities: Capabilities) -> bool:
        """Whether a workgroup has a worker for itself, and others come after it."""
        return self.resident == 1 and self.groups(facts) > capabilities.threads

    def price(self, facts: Analysis, capabilities: Capabilities) -> float:
        """About the time that all blocks take."""
        rounds = -(-self.groups(facts) // (capabilities.threads * self.resident))
        # Small blocks read their operands more often, and leave the unit idle.
        area = self.rows * self.unit.columns
        sides = (_GATHERED if self.gathers else _READ) * (self.rows + self.unit.columns)
        return rounds * self.resident * (area + sides)


def _unit_blocks(facts: Analysis, capabilities: Capabilities, gather: bool) -> Iterator[UnitBlock]:
    """gather: whether operands may be put together from single elements."""
    total, product = facts.reductions[0], contracted_product(facts.kernel)
    assert product is not None
    for unit in capabilities.matrix_units:
        if not isinstance(unit, GroupUnit) or unit.rounds and MATMUL_PRECISION.value != "high":
            continue
        step = ROW_BYTES // operand_bytes(unit)
        for operand in (0, 1):
            a, b = product.src[1 - operand], product.src[operand]
            if not fits(unit, total, a, b):
                continue
            loads = [operand_of(side) for side in (a, b)]
            if any(x.op is not Op.LOAD or x.arg is not None for x in loads):
                continue
            of_a, of_b = (access(x) for x in loads)
            rows = [r for r in facts.free if r in a.ranges and r not in b.ranges]
            columns = [r for r in facts.free if r in b.ranges and r not in a.ranges]
            depths = [r for r in total.src[1:] if r in a.ranges and r in b.ranges]
            for row in rows:
                for column in columns:
                    for depth in depths:
                        if size(depth) % step or size(column) < unit.columns:
                            continue
                        of_rows, of_columns = (
                            transposed(x, r, depth) for x, r in ((of_a, row), (of_b, column))
                        )
                        gathers = of_rows is None or of_columns is None
                        if (
                            gathers
                            and not gather
                            or (of_rows or of_columns)
                            and not unit.transposes
                        ):
                            continue
                        used = replace(
                            unit, a_transposed=bool(of_rows), b_transposed=bool(of_columns)
                        )
                        few = extent(total.src[1:]) < _FEW_STEPS * step
                        for shape in _SHAPES:
                            block = UnitBlock(used, operand, row, column, depth, *shape, gathers)
                            idle = few and block.waits(facts, capabilities)
                            if block.fits(capabilities) and not idle:
                                yield block


def operand_bytes(unit: GroupUnit) -> int:
    dtype = dtypes.from_name(unit.a)
    assert dtype is not None
    return dtype.itemsize


def transposed(load: Access, side: UOp, depth: UOp) -> bool | None:
    """Whether an operand is contiguous along its rows or columns, not its depth; None where it is
    along neither, or where whole pieces cannot be copied."""
    pieces = PIECE_BYTES // load.node.dtype.itemsize
    for along, crosswise in ((depth, False), (side, True)):
        if load.stride(along) in (1, None) and _in_pieces(load.node, along, pieces):
            return crosswise
    return None


@lru_cache(maxsize=64)
def _in_pieces(load: UOp, along: UOp, pieces: int) -> bool:
    """Whether all that is read along an axis are whole pieces, each read or not."""
    if size(along) % pieces:
        return False
    chunk = UOp.range(size(along) // pieces, AxisKind.LOOP, along.arg.id)
    lane = UOp.range(pieces, AxisKind.LOOP, -1 - along.arg.id)
    parts = [
        rewrite(substitute_ranges(x, {along: chunk * pieces + lane}), simplify_index)
        for x in (load.src[0].src[1], *load.src[1:])
    ]
    terms, constant = linear_form(parts[0])
    steps = [constant, *(s for t, s in terms.items() if t is not lane)]
    apart = all(lane not in t.ranges or t is lane for t in terms)
    whole = all(lane not in x.ranges for x in parts[1:])
    return whole and apart and terms.get(lane) == 1 and all(s % pieces == 0 for s in steps)


class _UnitBlockNest(Nest):
    """The loops around the units of a workgroup."""

    def __init__(self, facts: Analysis, capabilities: Capabilities, block: UnitBlock) -> None:
        super().__init__(facts, capabilities)
        self.block = block

    def opts(self) -> list[Opt]:
        block, unit = self.block, self.block.unit
        row, column, depth = block.row.arg.id, block.column.arg.id, block.depth.arg.id
        step = ROW_BYTES // operand_bytes(unit)
        columns = self.split(column, unit.columns)
        rows = self.split(row, block.rows, "masked" if block.is_masked else "overlap")
        down, over = self.group(row, unit.rows * block.over), self.group(row, unit.rows)
        steps = extent(self.facts.reductions[0].src[1:]) // step
        self.group(depth, step)
        inside = self.split(depth, unit.depth)
        others = [r.arg.id for r in self.facts.outputs if r not in (block.row, block.column)]
        grid = [*others, rows, columns]
        held = [x for x in (down, over) if x is not None]
        use = UseGroupUnit(unit, row, column, depth)
        rows_of, columns_of = unit_axes(numbered(unit, self.fresh))
        own_rows, own_columns = ([r.arg.id for r in x] for x in (rows_of, columns_of))
        opts: list[Opt] = [*self.splits, Order((*grid, *held, row, column)), use]
        opts += [Bind(x, AxisKind.GROUP) for x in grid]
        opts += [Bind(down, AxisKind.LOCAL)] if down is not None else []
        opts += [Bind(x, AxisKind.UNROLL) for x in (inside, over) if x is not None]
        exchange = self._exchange(((*held, *own_rows), tuple(own_columns)))
        ahead = block.depth_of_panels(steps, self.capabilities)
        of_a = _panel(rows_of, (inside, depth), step if unit.a_transposed else None)
        of_b = _panel(columns_of, (inside, depth), step if unit.b_transposed else None)
        for number, axes in ((0, (*held, *of_a)), (1, of_b)):
            opts.append(Stage(number, axes, depth=ahead))
        return [*opts, *exchange]

    def _exchanged_bytes(self) -> int:
        """About what the exchange of a block takes, with what lies between its rows."""
        itemsize = self.facts.stores[0].node.src[1].dtype.itemsize
        return self.block.rows * self.block.unit.columns * itemsize * 9 // 8

    def _exchange(self, groups: tuple[tuple[int, ...], ...]) -> list[Opt]:
        """Opts by which neighbouring threads store whole vectors next to each other."""
        store = self.facts.stores[0]
        unit, block = self.block.unit, self.block
        sizes = (block.rows, unit.columns)
        if store.stride(block.row) == 1:
            groups, sizes = (groups[1], groups[0]), (sizes[1], sizes[0])
        itemsize = store.node.src[1].dtype.itemsize
        room = self._exchanged_bytes() <= self.capabilities.local_bytes
        alone = len(self.facts.stores) == 1 and len(store.node.src) == 2 and not block.is_masked
        if not (alone and room) or 1 not in (store.stride(block.row), store.stride(block.column)):
            return []
        # Axes of threads are powers of two, the nearest along what is contiguous.
        lanes, threads = PIECE_BYTES // itemsize, unit.threads * block.down
        vectors = sizes[1] // lanes
        across = min(vectors & -vectors, threads)
        down = min(threads // across, sizes[0])
        rows = numbered(unit, self.fresh).axes[-1] + 1
        columns = rows + 1
        opts: list[Opt] = [Exchange(groups), Split(columns, lanes), Split(columns + 1, across)]
        opts += [Split(rows, down), Bind(columns, AxisKind.VECTOR)]
        opts += [Bind(x, AxisKind.LOCAL) for x in (columns + 1, rows)]
        return [*opts, *(Bind(x, AxisKind.UNROLL) for x in (columns + 2, columns + 3))]


def _panel(digits: tuple[UOp, ...], steps: tuple[int, ...], row: int | None) -> tuple[int, ...]:
    """The axes of an operand as it lies in its panel: along the steps of the sum, or, transposed,
    along its rows or columns, of which `row` are in one row of memory."""
    outer, inner = digits, ()
    while row is not None and outer and math.prod(map(size, (outer[-1], *inner))) <= row:
        outer, inner = outer[:-1], (outer[-1], *inner)
    return (*(r.arg.id for r in outer), *steps, *(r.arg.id for r in inner))
