"""Heuristics for contractions on matrix units: which unit, its tile, and the loops around it.

A tile is a few fragments of C side by side, as many as the registers hold: each fragment of A that
is loaded then serves several products, and so does each of B. Both operands come from LOCAL panels
in the order of the fragments' lanes, packed once for as many tiles as the caches hold:

    parts     the workers' shares
    batch     axes of both operands
    panels    a group of panels of B, packed together
    others    further axes of A
    blocks    a group of blocks of A, packed together
    panel, block
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp
from dovetile.lower.group_units import operand_of
from dovetile.optimize.analysis import Analysis, access, extent, room, size
from dovetile.optimize.nest import Nest
from dovetile.optimize.opts import Bind, Opt, Order
from dovetile.optimize.pad import Pad
from dovetile.optimize.use_matrix_unit import UseMatrixUnit, fits, fragment_axes
from dovetile.plugins.matrix_unit import MatrixUnit
from dovetile.plugins.specs import Capabilities

# Bytes of fragments that a worker loads in a cycle.
_LOADED = 96
# Cycles to copy an element into a panel: whole vectors, vectors put together from rows, or what
# lies together in a group.
_STRETCH, _WOVEN, _GROUP = 0.1, 0.2, 1.5
# Cycles to do what follows the sum, for an element in a vector and for one on its own.
_STORED, _SCATTERED = 0.3, 2.0


@dataclass(frozen=True)
class UnitTile:
    """A choice of a unit, the axes for it, and how many fragments of C stand side by side."""

    unit: MatrixUnit
    operand: int
    """Which side of the product is B."""
    row: UOp
    column: UOp
    depth: UOp
    down: int
    across: int
    copies: tuple[float, float]
    """Cycles to pack the whole of A, and of B."""
    cycles: float
    """Of all products."""


def unit_tiles(
    facts: Analysis, capabilities: Capabilities, product: UOp, reduced: tuple[UOp, ...]
) -> Iterator[UnitTile]:
    """Every way to do this contraction on a unit of the target."""
    total = facts.reductions[0]
    if total.src[0] is not product or any(not r.src[0].is_const for r in (*facts.free, *reduced)):
        return
    for unit in capabilities.matrix_units:
        for operand in (0, 1):
            a, b = product.src[1 - operand], product.src[operand]
            if not fits(unit, total, a, b):
                continue
            of_a, of_b = a.ranges - b.ranges, b.ranges - a.ranges
            rows = [r for r in facts.free if r in of_a and size(r) >= unit.rows]
            columns = [r for r in facts.free if r in of_b and size(r) >= unit.columns]
            depths = [r for r in reduced if r in a.ranges and r in b.ranges]
            for depth in depths:
                for row in rows:
                    for column in columns:
                        yield from _tiles(
                            facts, capabilities, unit, operand, operand_of(a), operand_of(b), row,
                            column, depth,
                        )  # fmt: skip


def _tiles(
    facts: Analysis, capabilities: Capabilities, unit: MatrixUnit, operand: int, a: UOp, b: UOp,
    row: UOp, column: UOp, depth: UOp,
) -> Iterator[UnitTile]:  # fmt: skip
    copies = (_copying(unit, a, depth, None), _copying(unit, b, depth, column))
    sums = facts.reductions[0].src[1:]
    length = -(-size(depth) // unit.depth)
    steps = length * extent(tuple(r for r in sums if r is not depth))
    outside = extent(facts.outputs)
    others = outside // (size(row) * size(column))
    whole = all(s.stride(column) == 1 for s in facts.stores)
    stored = outside * (_STORED if whole else _SCATTERED)
    nbytes_a = unit.rows * unit.depth * a.dtype.itemsize
    nbytes_b = unit.depth * unit.columns * b.dtype.itemsize
    for down, across in _shapes(unit, capabilities):
        if down * unit.rows > size(row) or across * unit.columns > size(column):
            continue
        if (across * nbytes_b + down * nbytes_a) * steps > room(capabilities):
            continue
        tiles = -(-size(row) // (down * unit.rows)) * -(-size(column) // (across * unit.columns))
        loads = (max(nbytes_a, 32) * down + nbytes_b * across) / _LOADED
        step = max(down * across * unit.cycles, loads, 0.0 if unit.registers else 4.0) + loads / 4
        yield UnitTile(
            unit, operand, row, column, depth, down, across, copies,
            tiles * others * steps * step + stored + sum(copies),
        )  # fmt: skip


def _shapes(unit: MatrixUnit, capabilities: Capabilities) -> Iterator[tuple[int, int]]:
    """(fragments of C above each other, side by side) that fit the registers, none of them smaller
    than another in both directions; ordinary vectors hold one fragment of A at a time."""
    registers = unit.registers or capabilities.vector_registers
    for across in range(1, 5):
        # Registers of its own also hold the fragments of A; of vectors, two are left for them.
        most = (
            (registers - across) // (across + 1)
            if unit.registers
            else (registers - across - 2) // across
        )
        for down in range(1, most + 1):
            yield down, across


def _copying(unit: MatrixUnit, value: UOp, depth: UOp, column: UOp | None) -> float:
    """Cycles to pack an operand; A has no columns."""
    loads = [access(n) for n in value.toposort() if n.op is Op.LOAD]
    price = _GROUP
    if all(x.stride(depth) == 1 for x in loads):
        whole = column is None and unit.rows > 1
        price = _STRETCH if whole else _GROUP / unit.group
    elif column is not None and all(x.stride(column) == 1 for x in loads):
        price = _WOVEN
    return price * extent(value.ranges)


def unit_opts(facts: Analysis, capabilities: Capabilities, tile: UnitTile) -> list[Opt]:
    """The Opts for a contraction by this tile."""
    return _UnitNest(facts, capabilities, tile).opts()


class _UnitNest(Nest):
    """The loops around a tile of fragments."""

    def __init__(self, facts: Analysis, capabilities: Capabilities, tile: UnitTile) -> None:
        super().__init__(facts, capabilities)
        self.tile, self.unit = tile, tile.unit
        product = facts.reductions[0].src[0]
        self.a, self.b = product.src[1 - tile.operand], product.src[tile.operand]
        self.reduced = facts.reductions[0].src[1:]
        depth, rest = tile.depth.arg.id, -size(tile.depth) % tile.unit.depth
        if rest:
            self.splits.append(Pad(depth, tile.unit.depth))
            self.sizes[depth] += rest

    def opts(self) -> list[Opt]:
        tile, unit = self.tile, self.unit
        row, column, depth = (r.arg.id for r in (tile.row, tile.column, tile.depth))
        panel = self.group(column, unit.columns * tile.across, "overlap")
        across = self.group(column, unit.columns, "overlap")
        block = self.group(row, unit.rows * tile.down, "overlap")
        down = self.group(row, unit.rows, "overlap") if unit.rows > 1 else None
        steps = self.group(depth, unit.depth, "overlap")
        of_b = [r for r in self.facts.free if r in self.b.ranges]
        batch = [r.arg.id for r in of_b if r is not tile.column]
        of_a = [r for r in self.facts.free if r not in self.b.ranges]
        others = [r.arg.id for r in of_a if r is not tile.row]

        # Whoever shares the blocks packs all panels, and the other way round.
        packing_a, packing_b = tile.copies
        share = self.share(
            (*batch, *others, block, panel), tile.cycles, {panel: packing_a, block: packing_b}
        )
        padded = -(-size(tile.depth) // unit.depth) * unit.depth
        terms = extent(self.reduced) // size(tile.depth) * padded
        panel_bytes = terms * unit.columns * tile.across * self.b.src[0].dtype.itemsize
        block_bytes = terms * unit.rows * tile.down * self.a.src[0].dtype.itemsize
        panels = self.group(panel, max(room(self.capabilities) // panel_bytes, 1))
        blocks = self.group(block, max(self.near // block_bytes, 1))

        own = fragment_axes(unit, self.fresh)
        rows, columns = own[0].arg.id, own[1].arg.id
        held = [x for x in (down, across) if x is not None]
        first = own[-1][-1].arg.id + 1
        inside: list[Opt] = []
        if unit.rows > 1:
            use = UseMatrixUnit(unit, (row, column, depth), tuple(held))
            copies = {x: first + i for i, x in enumerate(held)}
            inside.append(Bind(column, AxisKind.VECTOR))
            last = [down, row, across, column]
        else:
            use, copies = UseMatrixUnit(unit, (column, depth)), {}
            rows, column = row, columns
            inside.append(Bind(row, AxisKind.UNROLL))
            last = [row, across, column]
        if across is not None:
            inside.append(Bind(across, AxisKind.UNROLL))
        loops = [share, *batch, panels, *others, blocks, panel, block, *last]
        opts: list[Opt] = [*self.splits, use, Order(tuple(dict.fromkeys(
            x for x in loops if x is not None)))]  # fmt: skip
        opts += inside
        groups, step = (r.arg.id for r in own[2])
        sums = [r.arg.id for r in self.reduced if r is not tile.depth]
        in_b = [i for i in sums if any(r.arg.id == i for r in self.b.ranges)]
        in_a = [i for i in sums if any(r.arg.id == i for r in self.a.ranges)]
        held_a = [block, *in_a, steps, copies.get(down or -1), rows, groups, step]
        opts.append(self.stage(0, share, held_a))
        held_b = [panel, *in_b, steps, copies.get(across or -1, across), groups, columns, step]
        opts.append(self.stage(1, share, held_b))
        if share is not None:
            opts.append(Bind(share, AxisKind.THREAD))
        return opts
