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
from dovetile.ir.uop import UOp, nodes_of, toposort
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
# Places for blocks of keys and of values: one is read, one may still be, and one is filled.
_DEPTH = 3
# Columns of both products that the threads of a unit can hold, and LOCAL memory for other things.
_MOST_COLUMNS, _RESERVE = 256, 1024


@dataclass(frozen=True)
class ClosedUnits:
    """What units multiply in the reductions that share a loop, and the axes for them.

    first: with results of rows by keys, summed up along `depth`. second: with results of rows by
    columns, summed up along the keys.
    """

    first: GroupUnit
    second: GroupUnit
    row: UOp
    column: UOp
    depth: UOp


def closed_units(found: Closing, capabilities: Capabilities) -> ClosedUnits | None:
    """The units for reductions that share a loop, or None where none fit."""
    inner = [n for n in toposort(found.score) if n.op is Op.REDUCE]
    columns = [r for r in output_axes(found.kernel) if r not in found.rows]
    values = [
        f
        for node, _ in found.sums
        for f in factors(node.src[0])
        if not f.ranges.isdisjoint(columns)
    ]
    if len(inner) != 1 or len(inner[0].src) != 2 or len(columns) != 1 or len(values) != 1:
        return None
    (scores,), (column,), (value,) = inner, columns, values
    stored = {n.src[1].dtype for n in nodes_of(found.kernel) if n.op is Op.STORE}
    if value.op is not Op.CAST or stored != {value.src[0].dtype}:
        return None  # weights are rounded as the values are: no less exactly than the result
    keys, depth = found.axis, scores.src[1]
    if scores.src[0].op is not Op.MUL or any(not r.src[0].is_const for r in (keys, depth)):
        return None
    for side in (0, 1):
        rows, others = scores.src[0].src[side], scores.src[0].src[1 - side]
        free = [r for r in found.rows if r in rows.ranges and r.src[0].is_const]
        free = [r for r in free if r not in others.ranges and r not in value.ranges]
        if keys in rows.ranges or not free:
            continue
        row = max(free, key=lambda r: (size(r), -r.arg.id))
        ways = [_way(rows, row, depth), _way(others, keys, depth), _way(value, column, keys)]
        if any(way is None for way in ways):
            continue
        for first in _units(capabilities, rows, others, scores, _KEYS):
            for second in _units(capabilities, value, value, scores, (size(column),)):
                step = ROW_BYTES // operand_bytes(first)
                fits = first.columns <= size(keys) and size(row) >= first.rows
                fits = fits and first.columns + second.columns <= _MOST_COLUMNS
                nbytes = first.rows * size(depth) * (1 + (second.columns >= _WIDE))
                nbytes += _DEPTH * first.columns * (size(depth) + second.columns)
                fits = fits and nbytes * operand_bytes(first) + _RESERVE <= capabilities.local_bytes
                if fits and size(depth) % step == 0 and first.a == second.a:
                    return ClosedUnits(
                        replace(first, a_transposed=ways[0], b_transposed=ways[1]),
                        replace(second, b_transposed=ways[2]),
                        row, column, depth,
                    )  # fmt: skip
    return None


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
    if not facts.idempotent or all(n.arg is not Op.MAX for n in facts.reductions):
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
        row, column, depth = units.row.arg.id, units.column.arg.id, units.depth.arg.id
        several = 2 if second.columns >= _WIDE and size(units.row) >= 2 * first.rows else 1
        rows = self.group(row, several * first.rows, "overlap")
        down = self.group(row, first.rows)
        panels = self.group(depth, ROW_BYTES // operand_bytes(first))
        inside = self.split(depth, first.depth)
        others = [r.arg.id for r in self.facts.outputs if r not in (units.row, units.column)]
        # Blocks of rows first: those of one length begin together.
        grid = [*([] if rows is None else [rows]), *others]
        held = [] if down is None else [down]
        opts: list[Opt] = [*self.splits, Order((*grid, *held, row, column))]
        opts.append(OnlineRegisters((*held, row), first.columns, cut=True))
        kernel = apply_opts(self.facts.kernel, opts)
        (top,) = [n for n in nodes_of(kernel) if n.op is Op.REDUCE and n.arg is Op.MAX]
        opts.append(UseGroupUnit(first, row, top.src[1].arg.id, depth))
        opts.append(FollowGroupUnit(second, column))
        kernel = apply_opts(self.facts.kernel, opts)
        used = {n.arg.held: n.arg for n in nodes_of(kernel) if isinstance(n.arg, GroupUnit)}
        of_rows, of_keys = ([r.arg.id for r in x] for x in unit_axes(used[False]))
        of_columns = [r.arg.id for r in unit_axes(used[True])[1]]
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
        of_c = [of_keys[0], *of_columns, *of_keys[1:]]
        if second.b_transposed:
            of_c = [of_columns[0], *of_keys, *of_columns[1:]]
        ahead = _DEPTH if self.capabilities.asynchronous_copies else 1
        # Operands of both products: rows and keys, weights (which the threads hold) and values.
        opts += [Stage(0, tuple(of_a)), Stage(1, tuple(of_b), depth=ahead)]
        return [*opts, Stage(3, tuple(of_c), depth=ahead)]
