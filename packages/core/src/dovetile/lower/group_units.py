"""Units that several threads use together: sums of products become MATMULs of addresses."""

from __future__ import annotations

from dovetile.errors import GraphError
from dovetile.ir.ops import Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, nodes_of
from dovetile.plugins.matrix_unit import PIECE_BYTES, ROW_BYTES, GroupUnit

# Of a panel in LOCAL memory, in bytes: where the exchange of pieces begins again.
PANEL_ALIGNMENT = ROW_BYTES * ROW_BYTES // PIECE_BYTES


def group_unit_sums(sink: UOp) -> list[UOp]:
    """The REDUCEs that such units do."""
    return [n for n in nodes_of(sink) if n.op is Op.REDUCE and isinstance(n.arg, GroupUnit)]


def unit_panels(sink: UOp) -> set[UOp]:
    """The STAGEs whose memory such units read, which lie as these want them."""
    operands = [operand_of(s) for n in group_unit_sums(sink) for s in n.src[0].src]
    return {node for node in operands if node.op is Op.STAGE}


def operand_of(factor: UOp) -> UOp:
    """What a unit multiplies where the product has this factor: the unit casts by itself."""
    return factor.src[0] if factor.op is Op.CAST else factor


def exchanged(position: UOp, itemsize: int) -> UOp:
    """Where in such a panel the piece lies that would begin at `position`."""
    piece, pieces = PIECE_BYTES // itemsize, ROW_BYTES // PIECE_BYTES
    row = position // (piece * pieces)
    exchanged = (position // piece % pieces) ^ (row % pieces)
    return row * (piece * pieces) + exchanged * piece


def lower_group_units(sink: UOp) -> UOp:
    """`sink` with a MATMUL (address of A, address of B, *axes of C) for each such sum."""
    changes = {}
    for node in group_unit_sums(sink):
        unit, product = node.arg, node.src[0]
        digits = {*_digits(unit, node)}
        depth = node.src[1]
        starts = []
        for factor in product.src:
            load = operand_of(factor)
            if load.op is not Op.LOAD or len(load.src) != 1:
                raise GraphError(f"[lower] {unit.name} reads LOCAL memory; an operand is elsewhere")
            own = {r: UOp.const(0) for r in load.ranges if r in digits or r is depth}
            terms, constant = linear_form(load.src[0].src[1])
            if any(t.ranges & own.keys() and t not in own for t in terms):
                raise GraphError(f"[lower] {unit.name}: an operand lies in another order")
            buffer, position = load.src[0].src
            starts.append(buffer.index(substitute_ranges(position, own)))
        changes[node] = UOp(Op.MATMUL, node.dtype, (*starts, *sorted(digits, key=_id)), unit)
    return substitute(sink, changes) if changes else sink


def _digits(unit: GroupUnit, node: UOp) -> list[UOp]:
    count = len(unit.row_digits) + len(unit.column_digits)
    ids = range(unit.first, unit.first + count)
    return [r for r in node.ranges if r.arg.id in ids]


def _id(r: UOp) -> int:
    return r.arg.id
