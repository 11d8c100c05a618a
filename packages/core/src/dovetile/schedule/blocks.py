"""Blocks for what is held between contractions with fixed weights.

A convolution multiplies weights (outputs, channels, window) with an input (batch, channels, places)
to (batch, outputs, places). Where the axis that the next convolution sums over lies in blocks of
two vectors, (batch, channels / block, places, block), the vectors of every kernel run along it,
whatever the number of places: with places last, 7 x 7 of them leave a quarter of each vector
unused. Blocks keep neighbouring places near each other, which whole rows of channels would not. The
weights have blocks of outputs then: a copy, made once where they stay the same from call to call.

Only what stays inside the graph is laid out anew: inputs and results are row-major.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dovetile.ir.ops import ELEMENTWISE, MOVEMENT, Op
from dovetile.ir.shape import groups_of_equal_extent
from dovetile.ir.uop import UOp, toposort
from dovetile.schedule.layout import Layout
from dovetile.schedule.place import Placement, chooses

# For every axis of a node, the axes of the contraction that its index depends on.
Labels = tuple[frozenset[int], ...]
# How many vectors a block has, at most.
_VECTORS = 2


@dataclass(frozen=True)
class Operand:
    """Where an operand of a contraction comes from, and which of its axes use which of its own."""

    source: UOp
    labels: Labels

    def summed(self, kept: int) -> set[int]:
        """The axes that only the sum runs over; of the contraction's, the first `kept` remain."""
        return {i for i, used in enumerate(self.labels) if used and min(used) >= kept}


def choose(placement: Placement, vector_bytes: int) -> None:
    """Fills in placement.layouts and placement.relaid, for a target of such vectors."""
    if not vector_bytes:
        return
    contractions = {
        node: Contraction.of(node) for node in placement.nodes if node in placement.contractions
    }
    # The axes that all contractions which read a value sum over. Gradients of weights keep the
    # channels, and sum over the places: they are better off with those last.
    summed: dict[UOp, set[int]] = {}
    for c in contractions.values():
        for o in c.operands:
            axes = o.summed(c.kept)
            summed[o.source] = summed.get(o.source, axes) & axes
    chosen = {chain[-1] for node, chain in placement.epilogues.items() if chooses(node)}
    for node in placement.nodes:
        chain, c = placement.epilogues.get(node), contractions.get(node)
        if chain is None:
            continue
        if c is None:
            _follow(placement, chain, summed, vector_bytes)
        if c is None or c.weights is None:
            continue
        for operand in c.operands:
            if operand is not c.weights and operand.source in chosen:
                for axis in summed[operand.source]:
                    _lay_out(placement, operand.source, axis, vector_bytes)
        held, axis = chain[-1], axis_of(chain, c.outputs)
        if held in summed:
            wanted = axis in summed[held]
        else:  # a border of the graph: as its input
            wanted = any(operand.source in placement.layouts for operand in c.operands)
        if axis is None or not wanted or not _lay_out(placement, held, axis, vector_bytes):
            continue
        (own,) = (i for i, used in enumerate(c.weights.labels) if c.outputs in used)
        source, width = c.weights.source, placement.layouts[held].width
        layout = Layout.blocks(len(source.shape), own, width)
        if is_input(source):
            placement.relaid[node] = {source: layout}
        else:
            placement.layouts[source] = layout
            placement.fixed.add(source)


def _follow(
    placement: Placement, chain: tuple[UOp, ...], summed: dict[UOp, set[int]], vector_bytes: int
) -> None:
    """Lays out what is computed element for element from a value in blocks: in blocks of the same
    axis where it is summed over next, and else with that axis last."""
    held = chain[-1]
    labels = tuple(frozenset({i}) for i in range(len(held.shape)))
    for node in chain[:0:-1]:
        if node.op not in ELEMENTWISE:
            node, labels = _below(node, labels)
    node = chain[0]
    while node.op in ELEMENTWISE or node.op in MOVEMENT:
        if node is not chain[-1] and node in placement.held:
            break
        if node.op in MOVEMENT:
            node, labels = _below(node, labels)
        else:
            node = node.src[node.op is Op.WHERE]
    layout = placement.layouts.get(node)
    axes = labels[layout.axis] if layout is not None and layout.width > 1 else ()
    if layout is None or len(axes) != 1:
        return
    (axis,) = axes
    if axis in summed.get(held, ()):
        _lay_out(placement, held, axis, vector_bytes)
    elif held.shape[axis] % layout.width == 0 and placement.only_kernels_read(held):
        others = (i for i in range(len(held.shape)) if i != axis)
        placement.layouts[held] = Layout((*others, axis), axis, layout.width)


def _lay_out(placement: Placement, held: UOp, axis: int, vector_bytes: int) -> bool:
    """Gives a held value blocks of an axis, where it may lie so and has whole vectors of it."""
    lanes = vector_bytes // max(held.dtype.itemsize, 4)
    width = _width(held.shape[axis], lanes)
    inner = any(n != 1 for n in held.shape[axis + 1 :])
    if width is None or not inner or not placement.only_kernels_read(held):
        return False
    placement.layouts.setdefault(held, Layout.blocks(len(held.shape), axis, width))
    return placement.layouts[held].axis == axis


def _width(length: int, lanes: int) -> int | None:
    """The size of the blocks of an axis; None where it has no whole vectors."""
    return next((n * lanes for n in range(_VECTORS, 0, -1) if length % (n * lanes) == 0), None)


@dataclass(frozen=True)
class Contraction:
    """A sum of products.

    kept: how many axes its result has. weights: the operand that lies in memory, one of whose axes
    makes the axis `outputs` of the result, all others being summed over; or that is transformed
    from such a one, with axes of points; None where there is none.
    """

    operands: tuple[Operand, ...]
    kept: int
    weights: Operand | None = None
    outputs: int = 0

    @staticmethod
    def of(node: UOp) -> Contraction:
        terms = node.src[0]
        kept = len(terms.shape) - node.arg[1]
        product, labels = terms, tuple(frozenset({i}) for i in range(len(terms.shape)))
        while product.op is not Op.MUL:
            product, labels = _below(product, labels)
        operands = tuple(_operand(source, labels) for source in product.src)
        for weights, other in (operands, operands[::-1]):
            made = {i for used in weights.labels for i in used if i < kept}
            if _is_transformed(weights.source):
                made = made.difference(*other.labels)
            elif not is_input(weights.source):
                continue
            if len(made) != 1:
                continue
            (outputs,) = made
            single = all(len(used) <= 1 for used in weights.labels) and (
                sum(outputs in used for used in weights.labels) == 1
            )
            shared = any(outputs in used for used in other.labels)
            if single and not shared:
                return Contraction(operands, kept, weights, outputs)
        return Contraction(operands, kept)


def axis_of(chain: tuple[UOp, ...], outputs: int) -> int | None:
    """The axis of a contraction's epilogue that is the axis `outputs` of the contraction."""
    labels = tuple(frozenset({i}) for i in range(len(chain[-1].shape)))
    for node, below in zip(chain[::-1], chain[-2::-1]):
        if node.op not in ELEMENTWISE:
            node, labels = _below(node, labels)
            assert node is below
    axes = labels[outputs]
    return next(iter(axes)) if len(axes) == 1 else None


def is_input(node: UOp) -> bool:
    """Memory as the graph finds it. What the graph itself writes first is not laid out once."""
    return node.op is Op.BUFFER or node.op is Op.RESHAPE and node.src[0].op is Op.BUFFER


def _is_transformed(node: UOp) -> bool:
    """Memory as the graph finds it, with axes that choose between sums of its elements."""
    return chooses(node) and all(
        n.op in (Op.BUFFER, Op.IOTA, Op.CONST) or _is_plain(n) for n in toposort(node, _is_plain)
    )


def _is_plain(node: UOp) -> bool:
    return node.op in MOVEMENT or node.op in ELEMENTWISE


def _operand(node: UOp, labels: Labels) -> Operand:
    while not is_input(node) and (node.op in MOVEMENT or node.op in (Op.CAST, Op.INDEX)):
        node, labels = _below(node, labels)
    return Operand(node, labels)


def _below(node: UOp, labels: Labels) -> tuple[UOp, Labels]:
    """(the source of a movement, CAST or INDEX, the labels of its axes)."""
    source = node.src[0]
    if node.op is Op.RESHAPE:
        return source, tuple(_regrouped(labels, node.shape, source.shape))
    if node.op is Op.PERMUTE:
        moved: list[frozenset[int]] = [frozenset()] * len(node.arg)
        for position, axis in enumerate(node.arg):
            moved[axis] = labels[position]
        return source, tuple(moved)
    if node.op is Op.EXPAND:
        return source, labels[: len(source.shape)]
    if node.op is Op.INDEX:
        lead = len(node.src[1].shape)
        places = tuple(_used(i, labels[:lead]) for i in node.src[1:])
        return source, (*places, *labels[lead:])
    return source, labels


def _regrouped(
    labels: Labels, new: tuple[int, ...], old: tuple[int, ...]
) -> Iterator[frozenset[int]]:
    """Labels of the old axes: groups of axes of equal extent go together."""
    for of_new, of_old in groups_of_equal_extent(new, old):
        used = (label for label, n in zip(labels[of_new], new[of_new]) if n != 1)
        group = frozenset[int]().union(*used)
        for n in old[of_old]:
            yield group if n != 1 else frozenset()


def _used(index: UOp, labels: Labels) -> frozenset[int]:
    """The labels of the axes that an index into a source depends on."""
    needed: dict[UOp, Labels] = {index: labels}
    found: frozenset[int] = frozenset()
    for node in reversed(toposort(index)):
        own = needed.get(node)
        if own is None:
            continue
        if node.op in ELEMENTWISE:
            below = [(source, own) for source in node.src]
        elif node.op in MOVEMENT:
            below = [_below(node, own)]
        else:
            found = found.union(*own)
            continue
        for source, used in below:
            before = needed.get(source, (frozenset(),) * len(used))
            needed[source] = tuple(a | b for a, b in zip(before, used))
    return found
