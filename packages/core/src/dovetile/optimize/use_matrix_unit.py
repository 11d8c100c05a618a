"""The Opt that lets a matrix unit do the products of a contraction."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.group_units import operand_of
from dovetile.lower.stages import local_bytes, position
from dovetile.optimize.opts import OptError, axis, next_id, output_axes, replace_axes
from dovetile.plugins.matrix_unit import MatrixUnit


@dataclass(frozen=True)
class UseMatrixUnit:
    """Lets a unit sum up the products of a contraction along axes as long as its fragments.

    axes: those of its columns and of its depth, before them that of its rows if it has several.
    held: where the unit has registers of its own, output axes of further fragments that are summed
    up side by side; all of them go to LOCAL memory when they are done, where everything that
    follows reads them.

    The fragments get axes of their own, numbered in the order that `fragment_axes` states.
    """

    unit: MatrixUnit
    axes: tuple[int, ...]
    held: tuple[int, ...] = ()

    def apply(self, kernel: UOp) -> UOp:
        total = the_sum(kernel)
        named = [axis(kernel, id) for id in self.axes]
        row = named[0] if self.unit.rows > 1 else None
        column, depth = named[-2:]
        a, b = self._operands(total, row, column, depth)
        self._require(kernel, total, row, column, depth)
        own = fragment_axes(self.unit, next_id(kernel))
        rows, columns, steps = own
        step = position(steps)
        a = substitute_ranges(a, {depth: step, **({row: rows} if row is not None else {})})
        b = substitute_ranges(b, {depth: step, column: columns})
        product = a.cast(total.dtype) * b.cast(total.dtype)
        value = UOp(Op.REDUCE, total.dtype, (product, *steps), self.unit)
        rest = tuple(r for r in total.src[1:] if r is not depth)
        if rest:
            value = UOp(Op.REDUCE, total.dtype, (value, *rest), Op.ADD)
        if row is None:
            changed = substitute(kernel, {total: value})
            return replace_axes(changed, {column: columns}, {column: (columns,)})
        held = [axis(kernel, id) for id in self.held]
        return substitute(kernel, {total: _through_memory(kernel, value, held, row, column, own)})

    def _operands(self, total: UOp, row: UOp | None, column: UOp, depth: UOp) -> tuple[UOp, UOp]:
        for a, b in (total.src[0].src, total.src[0].src[::-1]):
            if column in a.ranges or row in b.ranges:
                continue
            if depth in a.ranges and depth in b.ranges and column in b.ranges:
                if (row is None or row in a.ranges) and fits(self.unit, total, a, b):
                    return operand_of(a), operand_of(b)
        unit = self.unit
        raise OptError(
            f"[UseMatrixUnit] {unit.name} multiplies {unit.a} (rows, depth) by {unit.b} (depth, "
            f"columns) in {unit.accumulator}; the kernel's operands are others"
        )

    def _require(self, kernel: UOp, total: UOp, row: UOp | None, column: UOp, depth: UOp) -> None:
        unit = self.unit
        wanted = {column: unit.columns, depth: unit.depth}
        if row is not None:
            wanted[row] = unit.rows
        for r, n in wanted.items():
            if not r.src[0].is_const or r.src[0].arg != n:
                raise OptError(f"[UseMatrixUnit] axis {r.arg.id}; {unit.name} needs one of {n}")
            if r.arg.kind is not (AxisKind.REDUCE if r is depth else AxisKind.LOOP):
                raise OptError(f"[UseMatrixUnit] axis {r.arg.id} is {r.arg.kind.name} already")
        if depth not in total.src[1:] or not {*wanted} - {depth} <= {*output_axes(kernel)}:
            raise OptError("[UseMatrixUnit] rows and columns are of the output, depth is summed up")
        held = [axis(kernel, id) for id in self.held]
        if held and row is None:
            raise OptError(f"[UseMatrixUnit] {unit.name} leaves its sums in vectors; hold nothing")
        if not all(r in output_axes(kernel) and r.src[0].is_const for r in held):
            raise OptError(f"[UseMatrixUnit] axes {self.held}; those of the output can be held")


def fragment_axes(unit: MatrixUnit, first: int) -> tuple[UOp, UOp, tuple[UOp, ...]]:
    """(rows, columns, (groups of the depth, steps in a group)). They are numbered from `first` in
    the order in which every fragment has its lanes: rows, groups, columns, steps."""
    sizes = (unit.rows, unit.depth // unit.group, unit.columns, unit.group)
    rows, groups, columns, steps = (
        UOp.range(n, AxisKind.VECTOR, first + i) for i, n in enumerate(sizes)
    )
    return rows, columns, (groups, steps)


def the_sum(kernel: UOp) -> UOp:
    """The one reduction of a kernel, where that is a sum of products."""
    sums = [n for n in nodes_of(kernel) if n.op is Op.REDUCE]
    if len(sums) != 1 or sums[0].arg is not Op.ADD or sums[0].src[0].op is not Op.MUL:
        raise OptError("[UseMatrixUnit] the kernel is no single sum of products")
    return sums[0]


def fits(unit: MatrixUnit, total: UOp, a: UOp, b: UOp) -> bool:
    """Whether a sum of the product of these two is of the types that the unit multiplies."""
    operands = operand_of(a).dtype.name, operand_of(b).dtype.name
    return operands == (unit.a, unit.b) and total.dtype.name == unit.accumulator


def _through_memory(
    kernel: UOp, value: UOp, held: list[UOp], row: UOp, column: UOp,
    own: tuple[UOp, UOp, tuple[UOp, ...]],
) -> UOp:  # fmt: skip
    """A load of the sums, which are stored for all points of `held` at once."""
    first = own[-1][-1].arg.id + 1
    copies = [UOp.range(r.src[0], AxisKind.UNROLL, first + i) for i, r in enumerate(held)]
    inner = (*copies, *own[:2])
    sizes = [int(r.src[0].arg) for r in inner]
    value = substitute_ranges(value, dict(zip(held, copies)))
    slot = local_bytes(kernel)
    buffer = UOp.buffer(math.prod(sizes), value.dtype, slot=slot, space=AddressSpace.LOCAL)
    outer = sorted(value.ranges.difference(inner), key=lambda r: r.arg.id)
    store = buffer.after(*outer).index(position(inner)).store(value)
    filled = buffer.after(store.end(*inner))
    return filled.index(position((*held, row, column))).load()
