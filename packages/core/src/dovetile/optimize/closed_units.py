"""Heuristics for dependent reductions that share a loop, on units of several threads: attention.

A workgroup has one or two units of rows. In each round of the loop over keys a unit multiplies the
rows with a block of keys, the threads turn the scores that they hold into weights, and another
product goes on with these. Keys and values are copied to LOCAL memory some rounds ahead; scores,
weights and sums stay in registers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp, nodes_of
from dovetile.optimize.analysis import Analysis, access, size
from dovetile.optimize.nest import Nest
from dovetile.optimize.online_registers import OnlineRegisters
from dovetile.optimize.opts import Bind, Opt, Order, Stage, apply_opts, output_axes
from dovetile.optimize.rescale import Closing, closing, factors
from dovetile.optimize.unit_blocks import operand_bytes, transposed
from dovetile.optimize.use_group_unit import FollowGroupUnit, UseGroupUnit, unit_axes
from dovetile.plugins.matrix_unit import ROW_BYTES, GroupUnit
from dovetile.plugins.specs import Capabilities

# Keys in a round: with more, scores and weights fill the registers.
_KEYS = (128, 64)
# Columns from which on a workgroup has two units of rows: its registers leave no room for another
# workgroup then, whose products would go on during this one's exponentials.
_WIDE = 128
# Places for blocks of keys and of values: one is read, one may still be, and one is filled; or less
# by the second, and a step awaits its products.
_DEPTH, _AWAITED_DEPTH = 3, 2
# Columns of both products that the threads of a unit can hold, and LOCAL memory for other things.
_MOST_COLUMNS, _RESERVE = 256, 1024


@dataclass(frozen=True)
class ClosedUnits:
    """What units multiply in the reductions that share a loop, and the axes for them.

    first: with results of rows by keys, summed up along `depth`: `count` such products. second:
    with results of rows by columns, summed up along the keys, where there are columns.
    """

    first: GroupUnit
    second: GroupUnit | None
    count: int
    row: UOp
    column: UOp | None
    depth: UOp

    @property
    def places(self) -> int:
        """For blocks of keys and of values that are copied ahead."""
        awaited = self.second is not None and self.second.awaited
        return _AWAITED_DEPTH if awaited else _DEPTH


def closed_units(found: Closing, capabilities: Capabilities) -> ClosedUnits | None:
    """The units for reductions that share a loop, or None where none fit."""
    inner = found.inner
    columns = [r for r in output_axes(found.kernel) if r not in found.rows]
    values = [
        f
        for node, _ in found.sums
        for f in factors(node.src[0])
        if not f.ranges.isdisjoint(columns)
    ]
    depths = {n.src[1:] for n in inner}
    if len(depths) != 1 or len(next(iter(depths))) != 1 or len(columns) > 1:
        return None
    if len(values) != len(columns) or any(n.src[0].op is not Op.MUL for n in inner):
        return None
    stored = {n.src[1].dtype for n in nodes_of(found.kernel) if n.op is Op.STORE}
    if any(value.op is not Op.CAST or stored != {value.src[0].dtype} for value in values):
        return None  # weights are rounded as the values are: no less exactly than the result
    keys, ((depth,),) = found.axis, depths
    if any(not r.src[0].is_const for r in (keys, depth)):
        return None
    sides = [_sides(n.src[0], keys) for n in inner]
    used = frozenset().union(*(b.ranges for _, b in sides), *(v.ranges for v in values))
    free = [r for r in found.rows if r.src[0].is_const and r not in used]
    free = [r for r in free if all(r in a.ranges and keys not in a.ranges for a, _ in sides)]
    if not free:
        return None
    row = max(free, key=lambda r: (size(r), -r.arg.id))
    ways = {(_way(a, row, depth), _way(b, keys, depth)) for a, b in sides}
    last = [_way(v, c, keys) for v, c in zip(values, columns)]
    if len(ways) != 1 or None in (*next(iter(ways)), *last):
        return None
    of_a, of_b = next(iter(ways))
    for first in _units(capabilities, *sides[0], inner[0], _KEYS):
        fits = first.columns <= size(keys) and size(row) >= first.rows
        step = ROW_BYTES // operand_bytes(first)
        if not fits or size(depth) % step:
            continue
        first = replace(first, a_transposed=of_a, b_transposed=of_b)
        units = ClosedUnits(first, None, len(inner), row, None, depth)
        if values:
            (value,), (column,) = values, columns
            second = _units(capabilities, value, value, inner[0], (size(column),))
            second = next((u for u in second if u.a == first.a), None)
            if second is None:
                continue
            second = replace(second, b_transposed=last[0])
            units = replace(units, second=second, column=column)
            few = replace(units, second=replace(second, awaited=True))
            # The products of a workgroup go on while another awaits its own.
            if _resident(few, capabilities) > _resident(units, capabilities):
                units = few
        if _fits(units, capabilities):
            return units
    return None


def _fits(units: ClosedUnits, capabilities: Capabilities) -> bool:
    """Whether registers and LOCAL memory have room for what the units multiply."""
    columns = units.second.columns if units.second is not None else 0
    held = units.count * units.first.columns + columns
    return held <= _MOST_COLUMNS and _resident(units, capabilities) > 0


def _resident(units: ClosedUnits, capabilities: Capabilities) -> int:
    """How many workgroups LOCAL memory has room for."""
    first, count, depth = units.first, units.count, size(units.depth)
    columns = units.second.columns if units.second is not None else 0
    elements = count * first.rows * depth * (1 + (columns >= _WIDE))
    elements += units.places * first.columns * (count * depth + columns)
    return capabilities.local_bytes // (elements * operand_bytes(first) + _RESERVE)


def _sides(product: UOp, keys: UOp) -> tuple[UOp, UOp]:
    """The operand of rows, and that of keys."""
    a, b = product.src
    return (b, a) if keys in a.ranges else (a, b)


def _way(operand: UOp, side: UOp, depth: UOp) -> bool | None:
    """How an operand lies; None where a unit cannot take it."""
    if operand.op is not Op.CAST or operand.src[0].op is not Op.LOAD or len(operand.src[0].src) > 1:
        return None
    return transposed(access(operand.src[0]), side, depth)


def _units(
    capabilities: Capabilities, a: UOp, b: UOp, total: UOp, columns: Iterable[int]
) -> list[GroupUnit]:
    """Those that multiply such operands, in order of these columns."""
    known = [u for u in capabilities.matrix_units if isinstance(u, GroupUnit) and u.holds]
    types = (a.src[0].dtype.name, b.src[0].dtype.name, total.dtype.name)
    return [
        u for n in columns for u in known if u.columns == n and (u.a, u.b, u.accumulator) == types
    ]


def closed_unit_opts(facts: Analysis, capabilities: Capabilities) -> list[Opt] | None:
    """The schedule of a kernel whose reductions can share a loop, on units; or None."""
    if not facts.idempotent or len(facts.reductions) < 2:
        return None
    found = closing(facts.kernel)
    units = None if found is None else closed_units(found, capabilities)
    return None if units is None else _ClosedNest(facts, capabilities, units).opts()


class _ClosedNest(Nest):
    """The loops around the units of a workgroup."""

    def __init__(self, facts: Analysis, capabilities: Capabilities, units: ClosedUnits) -> None:
        super().__init__(facts, capabilities)
        self.units = units

    def opts(self) -> list[Opt]:
        units, first, second = self.units, self.units.first, self.units.second
        row, depth = units.row.arg.id, units.depth.arg.id
        columns = [] if units.column is None else [units.column.arg.id]
        wide = second is not None and second.columns >= _WIDE
        several = 2 if wide and size(units.row) >= 2 * first.rows else 1
        rows = self.group(row, several * first.rows, "overlap")
        down = self.group(row, first.rows)
        panels = self.group(depth, ROW_BYTES // operand_bytes(first))
        inside = self.split(depth, first.depth)
        others = [r.arg.id for r in self.facts.outputs if r.arg.id not in (row, *columns)]
        # Blocks of rows first: those of one length begin together.
        grid = [*([] if rows is None else [rows]), *others]
        held = [] if down is None else [down]
        opts: list[Opt] = [*self.splits, Order((*grid, *held, row, *columns))]
        opts.append(OnlineRegisters((*held, row), first.columns, cut=True))
        kernel = apply_opts(self.facts.kernel, opts)
        sums = [n for n in nodes_of(kernel) if n.op is Op.REDUCE]
        (keys,) = {n.src[1].arg.id for n in sums if depth not in [r.arg.id for r in n.src[1:]]}
        opts.append(UseGroupUnit(first, row, keys, depth))
        if second is not None:
            opts.append(FollowGroupUnit(second, columns[0]))
        kernel = apply_opts(self.facts.kernel, opts)
        used = {n.arg.held: n.arg for n in nodes_of(kernel) if isinstance(n.arg, GroupUnit)}
        of_rows, of_keys = ([r.arg.id for r in x] for x in unit_axes(used[False]))
        opts += [Bind(x, AxisKind.GROUP) for x in grid]
        opts += [Bind(x, AxisKind.LOCAL) for x in held]
        steps = [x for x in (panels, inside) if x is not None]
        opts += [Bind(x, AxisKind.UNROLL) for x in steps]
        outer = [] if panels is None else [panels]
        rest = (inside, depth)
        of_a = [*held, *outer, *of_rows, *rest]
        if first.a_transposed:
            of_a = [*held, *outer, *rest, *of_rows]
        of_b = [*outer, *of_keys, *rest]
        if first.b_transposed:
            of_b = [*outer, of_keys[0], *rest, *of_keys[1:]]
        ahead = units.places if self.capabilities.asynchronous_copies else 1
        # Operands of the first products: rows and keys.
        for n in range(units.count):
            opts += [Stage(2 * n, tuple(of_a)), Stage(2 * n + 1, tuple(of_b), depth=ahead)]
        if second is None:
            return opts
        # Those of the last one: weights, which the threads hold, and values.
        of_columns = [r.arg.id for r in unit_axes(used[True])[1]]
        of_c = [of_keys[0], *of_columns, *of_keys[1:]]
        if second.b_transposed:
            of_c = [of_columns[0], *of_keys, *of_columns[1:]]
        return [*opts, Stage(2 * units.count + 1, tuple(of_c), depth=ahead)]
