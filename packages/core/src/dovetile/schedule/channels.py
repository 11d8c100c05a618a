"""Channels last for what convolutions pass to each other, on targets of workgroups.

What blocks of channels are for vectors (`blocks`), all channels are for matrix units that several
threads use: these take rows of the sum of 64 elements and more, and threads side by side read a
place's channels whatever the number of places. The weights have their channels last as well, in a
copy that is made once where they stay the same from call to call; so a row of a unit's panel is a
run of memory, for every tap of the window.

Only what stays inside the graph is laid out anew: inputs and results are row-major.
"""

from __future__ import annotations

from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.plugins.specs import Capabilities
from dovetile.schedule.blocks import Contraction, axis_of, is_input
from dovetile.schedule.layout import Layout
from dovetile.schedule.place import Placement, storage


def choose(placement: Placement, target: Capabilities) -> None:
    """Fills in placement.layouts and placement.relaid: for what windows slide over and for their
    weights, and then for the results of whatever reads a value that is laid out so."""
    if "GROUP" not in target.parallel_axes:
        return
    contractions = {
        node: Contraction.of(node) for node in placement.nodes if node in placement.contractions
    }
    for node, c in contractions.items():
        for data, weights in (c.operands, c.operands[::-1]):
            if any(len(used) > 1 for used in data.labels):
                if weights.source.op is Op.STAGE and is_input(storage(weights.source.src[0])):
                    placement.fixed.add(weights.source)
                for axis, used in enumerate(data.labels):
                    own = [i for i, labels in enumerate(weights.labels) if labels == used]
                    if len(own) == 1 and used and min(used) >= c.kept:
                        layout = _last(weights.source, *own)
                        placed = _put_last(placement, data.source, axis)
                        if placed and layout is not None and is_input(weights.source):
                            placement.relaid[node] = {weights.source: layout}
    chains = [
        (placement.epilogues[node], c)
        for node, c in contractions.items()
        if node in placement.epilogues and c.weights is not None
    ]
    for chain, c in sorted(chains, key=lambda found: placement.position[found[0][-1]]):
        read = {o.source for o in c.operands} | {storage(s) for node in chain[1:] for s in node.src}
        axis = axis_of(chain, c.outputs)
        if axis is not None and not read.isdisjoint(placement.layouts):
            _put_last(placement, chain[-1], axis)


def _put_last(placement: Placement, held: UOp, axis: int) -> bool:
    """Whether a value has this axis last, now or in any case."""
    layout = _last(held, axis)
    if layout is None:
        return True
    if held not in placement.held or not placement.only_kernels_read(held):
        return False
    return placement.layouts.setdefault(held, layout) == layout


def _last(node: UOp, axis: int) -> Layout | None:
    """Row-major, but for an axis that comes last; None where it does in any case."""
    if all(n == 1 for n in node.shape[axis + 1 :]):
        return None
    return Layout((*(i for i in range(len(node.shape)) if i != axis), axis))
