"""Units that several threads use together: sums of products become MATMULs of addresses."""

from __future__ import annotations

from dovetile.errors import GraphError
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.linear import buffer_of
from dovetile.plugins.matrix_unit import PIECE_BYTES, ROW_BYTES, GroupUnit

# Of a panel in LOCAL memory, in bytes: where the exchange of pieces begins again.
PANEL_ALIGNMENT = ROW_BYTES * ROW_BYTES // PIECE_BYTES


def group_unit_sums(sink: UOp) -> list[UOp]:
    """The REDUCEs that such units do."""
    return [n for n in nodes_of(sink) if n.op is Op.REDUCE and isinstance(n.arg, GroupUnit)]


def only_adds(sink: UOp, loop: UOp) -> bool:
    """Whether such a unit does nothing in the steps of a loop but to add to registers. It may then
    still read what it was given the step before, where nobody awaits it."""
    sums = {n for n in group_unit_sums(sink) if not n.arg.awaited}
    for node in nodes_of(sink):
        if node.op is Op.REDUCE and loop in node.src[1:] and node.src[0] in sums:
            return True
        if node.op is Op.STORE and loop in node.ranges and node.src[1].op is Op.ADD:
            registers = buffer_of(node.src[0]).arg.space is AddressSpace.REG
            if registers and not sums.isdisjoint(node.src[1].src):
                return True
    return False


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
    """`sink` with a MATMUL (A, address of B, *axes of C) for each such sum. A is an address too, or
    where the threads hold it, its value, whose axes the sum goes on to close."""
    while sums := [n for n in group_unit_sums(sink) if n.src[0].op is not Op.MATMUL]:
        node = sums[0]  # what others are made from comes first
        unit, axes = node.arg, sorted(_digits(node.arg, node), key=_id)
        own = {*axes, *node.src[1:]}
        a, b = (operand_of(s) for s in node.src[0].src)
        a = a if unit.held else _start(unit, a, own)
        value = UOp(Op.MATMUL, node.dtype, (a, _start(unit, b, own), *axes), unit)
        if unit.held:
            value = node.replace(src=(value, *node.src[1:]))
        sink = substitute(sink, {node: value})
    return sink


def _start(unit: GroupUnit, load: UOp, own: set[UOp]) -> UOp:
    """The address at which an operand begins."""
    if load.op is not Op.LOAD or len(load.src) != 1:
        raise GraphError(f"[lower] {unit.name} reads LOCAL memory; an operand is elsewhere")
    terms, _ = linear_form(load.src[0].src[1])
    if any(t.ranges & own and t not in own for t in terms):
        raise GraphError(f"[lower] {unit.name}: an operand lies in another order")
    buffer, position = load.src[0].src
    return buffer.index(substitute_ranges(position, {r: UOp.const(0) for r in own}))


def start_from_sums(sink: UOp) -> UOp:
    """`sink` with products that begin at what was added to them."""
    changes: dict[UOp, UOp] = {}
    for node in nodes_of(sink):
        if node.op is Op.ADD:
            for product, other in (node.src, node.src[::-1]):
                if product.op is Op.MATMUL and isinstance(product.arg, GroupUnit):
                    changes[node] = _from(product, other)
                    break
    return substitute(sink, changes) if changes else sink


def _from(product: UOp, start: UOp) -> UOp:
    before = product.src[2]
    start = _from(before, start) if before.op is Op.MATMUL else start
    return product.replace(src=(*product.src[:2], start))


def _digits(unit: GroupUnit, node: UOp) -> list[UOp]:
    return [r for r in node.ranges if r.arg.id in unit.axes]


def _id(r: UOp) -> int:
    return r.arg.id
