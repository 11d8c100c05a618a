"""Operands of matrix units that several threads use, in the order in which these can read them.

A unit of small numbers multiplies rows along the depth of the sum, and takes transposed operands
only of some types. An operand that lies the other way is read through a copy: it moves the operand
twice, while without the unit the whole product would be done by multiply-adds.
"""

from __future__ import annotations

import math

from dovetile.environment import MATMUL_PRECISION
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.plugins.matrix_unit import ROW_BYTES, GroupUnit
from dovetile.plugins.specs import Capabilities
from dovetile.schedule.blocks import Contraction, Operand, is_input
from dovetile.schedule.layout import Layout
from dovetile.schedule.place import Placement

# A copy takes at most such a share of what the multiply-adds would.
_SHARE = 0.5


def choose(placement: Placement, target: Capabilities) -> None:
    """Fills in placement.relaid for the contractions that such units of the target can do."""
    units = [u for u in target.matrix_units if isinstance(u, GroupUnit)]
    closed = frozenset[UOp]().union(*placement.closed.values(), placement.closed)
    for node in placement.nodes if units else ():
        if node not in placement.contractions or node in closed:
            continue
        if node.arg[1] == 1 and any(_is_for(unit, node) for unit in units):
            found = _copies(placement, node)
            moved = sum(2 * s.size * s.dtype.itemsize for s in found)
            seconds = moved / target.bytes_per_second + len(found) * target.launch_seconds
            work = 2 * node.src[0].size / target.operations_per_second
            if found and seconds < _SHARE * work:
                placement.relaid[node] = found


def _is_for(unit: GroupUnit, node: UOp) -> bool:
    """Whether a contraction is of a unit's types and fills one, if no operand may be transposed."""
    asked = not unit.rounds or MATMUL_PRECISION.value == "high"
    if unit.transposes or not asked or node.dtype.name != unit.accumulator:
        return False
    contraction = Contraction.of(node)
    if sorted(o.source.dtype.name for o in contraction.operands) != sorted((unit.a, unit.b)):
        return False
    if max(_casts(node, contraction)) > 1:
        return False  # other types in between, by which the unit would not round
    shape = node.src[0].shape
    own = [math.prod(shape[i] for i in axes) for axes in _own(contraction)]
    least = sorted((unit.rows, unit.columns))
    itemsize = contraction.operands[0].source.dtype.itemsize
    return all(n >= m for n, m in zip(sorted(own), least)) and not shape[-1] * itemsize % ROW_BYTES


def _casts(node: UOp, contraction: Contraction) -> list[int]:
    """How often each operand is cast before it is multiplied."""
    product = node.src[0]
    while product.op is not Op.MUL:
        product = product.src[0]
    counts = []
    for factor, operand in zip(product.src, contraction.operands):
        counts.append(0)
        while factor is not operand.source:
            counts[-1] += factor.op is Op.CAST
            factor = factor.src[0]
    return counts


def _own(contraction: Contraction) -> list[set[int]]:
    """For each operand the axes of the result that only it has."""
    used = [set[int]().union(*o.labels) for o in contraction.operands]
    return [{i for i in a - b if i < contraction.kept} for a, b in (used, used[::-1])]


def _copies(placement: Placement, node: UOp) -> dict[UOp, Layout]:
    """The operands that do not lie along the sum, with the layouts of their copies."""
    contraction = Contraction.of(node)
    first, second = contraction.operands
    found: dict[UOp, Layout] = {}
    for operand in contraction.operands if first.source is not second.source else ():
        source, axis = operand.source, _depth(operand, contraction.kept)
        if axis is None or not (is_input(source) or source in placement.held):
            return {}
        if source in placement.layouts and placement.layouts[source].order[-1] == axis:
            continue
        if any(n != 1 for n in source.shape[axis + 1 :]):
            others = (i for i in range(len(source.shape)) if i != axis)
            found[source] = Layout((*others, axis))
    return found


def _depth(operand: Operand, kept: int) -> int | None:
    """The one axis of an operand that the sum runs over, if the others are axes of the result."""
    axes = operand.summed(kept)
    single = all(len(used) <= 1 for used in operand.labels)
    return next(iter(axes)) if single and len(axes) == 1 else None
