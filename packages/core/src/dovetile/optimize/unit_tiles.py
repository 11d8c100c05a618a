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
from dovetile.optimize.analysis import Analysis, access, extent, size
from dovetile.optimize.opts import Bind, Opt, Order, Split, Stage
from dovetile.optimize.pad import Pad
from dovetile.optimize.use_matrix_unit import UseMatrixUnit, fits, fragment_axes
from dovetile.plugins.matrix_unit import MatrixUnit
from dovetile.plugins.specs import Capabilities

# How much more a tile gets done in a given time than plain loops do.
_SPEED = 2.0
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
                            facts, capabilities, unit, operand, a.src[0], b.src[0], row, column,
                            depth,
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
        if (across * nbytes_b + down * nbytes_a) * steps > _room(capabilities):
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
        operands = 1 if unit.registers else 2
        most = (registers - across - (0 if unit.registers else operands)) // (
            across + (1 if unit.registers else 0)
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


def _room(capabilities: Capabilities) -> int:
    """Bytes that the panels of one operand may take."""
    last = capabilities.cache_bytes[-1] if capabilities.cache_bytes else 1 << 20
    return min(last // 8, capabilities.local_bytes // 4)


def unit_opts(facts: Analysis, capabilities: Capabilities, tile: UnitTile) -> list[Opt]:
    """The Opts for a contraction by this tile."""
    return _Nest(facts, capabilities, tile).opts()


class _Nest:
    """The loops around a tile. Axes are named by their ids; None where a loop is not needed."""

    def __init__(self, facts: Analysis, capabilities: Capabilities, tile: UnitTile) -> None:
        self.facts, self.capabilities, self.tile = facts, capabilities, tile
        self.unit = tile.unit
        product = facts.reductions[0].src[0]
        self.a, self.b = product.src[1 - tile.operand], product.src[tile.operand]
        self.reduced = facts.reductions[0].src[1:]
        self.sizes = {r.arg.id: size(r) for r in (*facts.outputs, *self.reduced)}
        self.fresh = max(r.arg.id for r in facts.nodes if r.op is Op.RANGE) + 1
        self.splits: list[Opt] = []
        depth, rest = tile.depth.arg.id, -size(tile.depth) % tile.unit.depth
        if rest:
            self.splits.append(Pad(depth, tile.unit.depth))
            self.sizes[depth] += rest

    def _split(self, axis: int, into: int, ragged: str = "overlap") -> int | None:
        """The new outer axis, the axis itself keeps `into`; None where that is all of it."""
        if into >= self.sizes[axis]:
            return None
        self.splits.append(Split(axis, into, ragged))
        outer, self.fresh = self.fresh, self.fresh + 1
        self.sizes[outer] = -(-self.sizes[axis] // into)
        self.sizes[axis] = into
        return outer

    def opts(self) -> list[Opt]:
        tile, unit = self.tile, self.unit
        row, column, depth = (r.arg.id for r in (tile.row, tile.column, tile.depth))
        panel = self._split(column, unit.columns * tile.across)
        across = self._split(column, unit.columns)
        block = self._split(row, unit.rows * tile.down)
        down = self._split(row, unit.rows) if unit.rows > 1 else None
        steps = self._split(depth, unit.depth)
        of_b = [r for r in self.facts.free if r in self.b.ranges]
        batch = [r.arg.id for r in of_b if r is not tile.column]
        of_a = [r for r in self.facts.free if r not in self.b.ranges]
        others = [r.arg.id for r in of_a if r is not tile.row]

        share = self._share([*batch, *others, block, panel], block, panel)
        padded = -(-size(tile.depth) // unit.depth) * unit.depth
        terms = extent(self.reduced) // size(tile.depth) * padded
        panel_bytes = terms * unit.columns * tile.across * self.b.src[0].dtype.itemsize
        block_bytes = terms * unit.rows * tile.down * self.a.src[0].dtype.itemsize
        caches = self.capabilities.cache_bytes or (1 << 15,)
        near = caches[min(1, len(caches) - 1)] // 2
        panels = blocks = None
        if panel is not None and panel != share:
            panels = self._split(panel, max(_room(self.capabilities) // panel_bytes, 1), "short")
        if block is not None and block != share:
            blocks = self._split(block, max(near // block_bytes, 1), "short")

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
            inside += [Bind(x, AxisKind.UNROLL) for x in (row,)]
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
        opts.append(self._stage(0, share, held_a))
        held_b = [panel, *in_b, steps, copies.get(across or -1, across), groups, columns, step]
        opts.append(self._stage(1, share, held_b))
        if share is not None:
            opts.append(Bind(share, AxisKind.THREAD))
        return opts

    def _stage(self, operand: int, share: int | None, axes: list[int | None]) -> Stage:
        """Holds an operand for these axes; each worker holds its own share."""
        return Stage(operand, tuple(x for x in axes if x is not None and x != share))

    def _share(self, axes: list[int | None], block: int | None, panel: int | None) -> int | None:
        """Splits an axis into the parts that the workers take; returns the axis of parts. Whoever
        shares the blocks packs all panels, and the other way round."""
        if not self.facts.worth_sharing(self.capabilities, _SPEED):
            return None
        threads, tile = self.capabilities.threads, self.tile
        best: tuple[float, int, int] | None = None
        for axis in (x for x in axes if x is not None):
            n = self.sizes[axis]
            for parts in {min(n, threads * k) for k in (1, 2, 4)}:
                each = -(-n // parts)
                parts = -(-n // each)
                if parts < 2:
                    continue
                rounds = -(-parts // threads)
                again = tile.copies[0] if axis == panel else tile.copies[1] if axis == block else 0
                time = tile.cycles * rounds * each / n + again * rounds
                # More parts than workers even out what disturbs one of them.
                time *= 1 - 0.01 * min(parts // threads, 4)
                if best is None or time < best[0]:
                    best = (time, axis, each)
        if best is None:
            return None
        _, axis, each = best
        return axis if each == 1 else self._split(axis, each, "short")
