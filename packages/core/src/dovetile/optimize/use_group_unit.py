"""The Opts that let units of several threads do the products of contractions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.rewrite import substitute
from dovetile.ir.uop import UOp, nodes_of
from dovetile.optimize.opts import OptError, axis, next_id, replace_axes
from dovetile.optimize.use_matrix_unit import fits
from dovetile.plugins.matrix_unit import GroupUnit


@dataclass(frozen=True)
class UseGroupUnit:
    """Lets a unit sum up all products along axes as long as its operands: its rows, its columns and
    its depth. The axes of the output become the digits that the threads and their lanes are.
    """

    unit: GroupUnit
    row: int
    column: int
    depth: int

    def apply(self, kernel: UOp) -> UOp:
        unit = self.unit
        row, column, depth = (axis(kernel, id) for id in (self.row, self.column, self.depth))
        for r, n in ((row, unit.rows), (column, unit.columns), (depth, unit.depth)):
            if not r.src[0].is_const or r.src[0].arg != n:
                raise OptError(f"[UseGroupUnit] axis {r.arg.id}; {unit.name} needs one of {n}")
        used = numbered(unit, next_id(kernel))
        changes = {total: self._by_unit(total, used, row, column, depth)
                   for total in _sums_along(kernel, depth)}  # fmt: skip
        kernel = substitute(kernel, changes)
        rows, columns = unit_axes(used)
        return replace_axes(
            kernel, {row: _number(rows), column: _number(columns)}, {row: rows, column: columns}
        )

    @staticmethod
    def _by_unit(total: UOp, unit: GroupUnit, row: UOp, column: UOp, depth: UOp) -> UOp:
        a, b = total.src[0].src
        if row in b.ranges:
            a, b = b, a
        apart = row in a.ranges - b.ranges and column in b.ranges - a.ranges
        if not apart:
            raise OptError("[UseGroupUnit] rows are of one operand, columns of the other")
        if not fits(unit, total, a, b):
            raise OptError(
                f"[UseGroupUnit] {unit.name} multiplies {unit.a} by {unit.b} in "
                f"{unit.accumulator}; the kernel's operands are others"
            )
        value = UOp(Op.REDUCE, total.dtype, (a * b, depth), unit)
        rest = tuple(r for r in total.src[1:] if r is not depth)
        return UOp(Op.REDUCE, total.dtype, (value, *rest), Op.ADD) if rest else value


@dataclass(frozen=True)
class FollowGroupUnit:
    """Lets a unit multiply what another one's results have become, which the threads hold: its rows
    are theirs, its depth their columns.

    column: the axis of the output that the other operand depends on.
    """

    unit: GroupUnit
    column: int

    def apply(self, kernel: UOp) -> UOp:
        column = axis(kernel, self.column)
        first = next((n.arg for n in nodes_of(kernel) if isinstance(n.arg, GroupUnit)), None)
        if first is None:
            raise OptError("[FollowGroupUnit] no unit has results to go on with")
        (_, depths), unit = unit_axes(first), self.unit
        total = _sums_along(kernel, *depths)[0]
        a, b = total.src[0].src
        a, b = (b, a) if column in a.ranges else (a, b)
        apart = column in b.ranges - a.ranges and b.ranges.isdisjoint(unit_axes(first)[0])
        if not apart or not {*depths} <= b.ranges:
            raise OptError(
                "[FollowGroupUnit] the columns are of one operand, the rows of the other"
            )
        if not column.src[0].is_const or column.src[0].arg != unit.columns:
            raise OptError(
                f"[FollowGroupUnit] axis {self.column}; {unit.name} needs {unit.columns}"
            )
        places = {place for _, _, place in unit.column_digits}
        ids = tuple(i + (place in places) for place, i in enumerate(first.axes))
        used = replace(unit, depth=first.columns, held=True, axes=ids)
        # What the threads hold is rounded as memory would round it.
        dtype = b.src[0].dtype if b.op is Op.CAST else b.dtype
        a = a.cast(dtype).cast(total.dtype)
        if not fits(used, total, a, b):
            raise OptError(f"[FollowGroupUnit] {unit.name} multiplies {unit.b}; the kernel others")
        value = UOp(Op.REDUCE, total.dtype, (a * b, *depths), used)
        _, columns = unit_axes(used)
        kernel = substitute(kernel, {total: value})
        return replace_axes(kernel, {column: _number(columns)}, {column: columns})


def _sums_along(kernel: UOp, *depths: UOp) -> list[UOp]:
    """The sums of products over these axes, and perhaps others."""
    sums = [n for n in nodes_of(kernel) if n.op is Op.REDUCE and n.arg is Op.ADD]
    found = [n for n in sums if {*depths} <= {*n.src[1:]} and n.src[0].op is Op.MUL]
    if not found:
        ids = [r.arg.id for r in depths]
        raise OptError(f"[opt] no sum of products over the axes {ids}")
    return found


def numbered(unit: GroupUnit, first: int) -> GroupUnit:
    """The unit with ids for its axes from `first` on, every other one: those between are for the
    columns of a unit that goes on with its results, whose lanes lie like this one's."""
    count = len(unit.row_digits) + len(unit.column_digits)
    return replace(unit, axes=tuple(range(first, first + 2 * count, 2)))


def unit_axes(unit: GroupUnit) -> tuple[tuple[UOp, ...], tuple[UOp, ...]]:
    """The axes of the digits of its rows, and of its columns, the most significant first."""
    kinds = {"thread": AxisKind.LOCAL, "lane": AxisKind.VECTOR}
    rows, columns = (
        tuple(UOp.range(n, kinds[kind], unit.axes[place]) for n, kind, place in digits)
        for digits in (unit.row_digits, unit.column_digits)
    )
    return rows, columns


def _number(digits: tuple[UOp, ...]) -> UOp:
    value = digits[0]
    for digit in digits[1:]:
        value = value * digit.src[0].arg + digit
    return value
