"""The Opt that lets a unit of several threads do the products of a contraction."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.rewrite import substitute
from dovetile.ir.uop import UOp
from dovetile.optimize.opts import OptError, axis, next_id, output_axes, replace_axes
from dovetile.optimize.use_matrix_unit import fits, the_sum
from dovetile.plugins.matrix_unit import GroupUnit


@dataclass(frozen=True)
class UseGroupUnit:
    """Lets a unit sum up the products along axes as long as its operands: its rows, its columns and
    its depth. The axes of the output become the digits that the threads and their lanes are.
    """

    unit: GroupUnit
    row: int
    column: int
    depth: int

    def apply(self, kernel: UOp) -> UOp:
        total, unit = the_sum(kernel), self.unit
        row, column, depth = (axis(kernel, id) for id in (self.row, self.column, self.depth))
        a, b = total.src[0].src
        if row in b.ranges:
            a, b = b, a
        for r, n in ((row, unit.rows), (column, unit.columns), (depth, unit.depth)):
            if not r.src[0].is_const or r.src[0].arg != n:
                raise OptError(f"[UseGroupUnit] axis {r.arg.id}; {unit.name} needs one of {n}")
        apart = row in a.ranges - b.ranges and column in b.ranges - a.ranges
        if not apart or depth not in total.src[1:] or not {row, column} <= {*output_axes(kernel)}:
            raise OptError("[UseGroupUnit] rows and columns are of the output, depth is summed up")
        if not fits(unit, total, a, b):
            raise OptError(
                f"[UseGroupUnit] {unit.name} multiplies {unit.a} by {unit.b} in "
                f"{unit.accumulator}; the kernel's operands are others"
            )
        used = replace(unit, first=next_id(kernel))
        value = UOp(Op.REDUCE, total.dtype, (a * b, depth), used)
        rest = tuple(r for r in total.src[1:] if r is not depth)
        if rest:
            value = UOp(Op.REDUCE, total.dtype, (value, *rest), Op.ADD)
        kernel = substitute(kernel, {total: value})
        rows, columns = unit_axes(used)
        return replace_axes(
            kernel, {row: _number(rows), column: _number(columns)}, {row: rows, column: columns}
        )


def unit_axes(unit: GroupUnit) -> tuple[tuple[UOp, ...], tuple[UOp, ...]]:
    """The axes of the digits of its rows, and of its columns, the most significant first."""
    kinds = {"thread": AxisKind.LOCAL, "lane": AxisKind.VECTOR}
    rows, columns = (
        tuple(UOp.range(n, kinds[kind], unit.first + place) for n, kind, place in digits)
        for digits in (unit.row_digits, unit.column_digits)
    )
    return rows, columns


def _number(digits: tuple[UOp, ...]) -> UOp:
    value = digits[0]
    for digit in digits[1:]:
        value = value * digit.src[0].arg + digit
    return value
