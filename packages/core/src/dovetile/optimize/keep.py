"""Values that a reduction computes and that what follows computes again: compute them once.

A softmax adds up the exponentials of a row and then divides each by the sum. Where computing a
value takes longer than keeping it, a row of such values goes to LOCAL memory, which is cache there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dovetile.ir.ops import ELEMENTWISE, AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp, consumers, nodes_of, toposort
from dovetile.lower.stages import aligned, local_bytes
from dovetile.optimize.analysis import COST, size
from dovetile.optimize.opts import OptError, axis, next_id, output_axes
from dovetile.plugins.specs import Capabilities

# In additions: what storing a value and loading it twice costs, with the loop that does it.
_LEAST_WORK = 8


@dataclass(frozen=True)
class Keep:
    """Computes once, into LOCAL memory, what is computed for every point of the reduced axis and
    again, equally, for every point of the output axis `again`."""

    axis: int
    again: int

    def apply(self, kernel: UOp) -> UOp:
        first, second = axis(kernel, self.axis), axis(kernel, self.again)
        values = repeated(kernel, first, second)
        if not values:
            raise OptError(
                f"[Keep] nothing that costs much is computed along axis {self.axis} and again, "
                f"equally, along axis {self.again}"
            )
        changes: dict[UOp, UOp] = {}
        own = UOp.range(first.src[0], AxisKind.LOOP, next_id(kernel))
        offset = local_bytes(kernel)
        for value, same in values:
            buffer = UOp.buffer(size(first), value.dtype, slot=offset, space=AddressSpace.LOCAL)
            fill = buffer.index(own).store(substitute_ranges(value, {first: own})).end(own)
            kept = buffer.after(fill)
            changes[value], changes[same] = kept.index(first).load(), kept.index(second).load()
            offset += aligned(size(first) * value.dtype.itemsize)
        return substitute(kernel, changes)


def repeated(kernel: UOp, first: UOp, second: UOp) -> list[tuple[UOp, UOp]]:
    """(value computed along `first`, the same along `second`): the last ones of each computation
    that costs enough."""
    outputs = output_axes(kernel)
    plain = first.arg.kind is AxisKind.REDUCE and second.arg.kind is AxisKind.LOOP
    if not plain or first in outputs or second not in outputs:
        return []
    if first.src[0] is not second.src[0] or not first.src[0].is_const:
        return []
    outside = frozenset(outputs[: outputs.index(second)])
    nodes = nodes_of(kernel)
    users = consumers(nodes)
    images: dict[UOp, UOp] = {first: second}
    for node in nodes:
        if first not in node.ranges:
            images[node] = node
        elif node is not first:
            images[node] = UOp(node.op, node.dtype, tuple(images[s] for s in node.src), node.arg)
    shared = {
        node: same
        for node, same in images.items()
        if node.op in ELEMENTWISE and node is not same and users.get(same)
    }
    return [
        (node, same)
        for node, same in shared.items()
        if shared.keys().isdisjoint(users[node])
        and node.ranges - {first} <= outside
        and _work(node, first) >= _LEAST_WORK
    ]


def _work(value: UOp, along: UOp) -> int:
    """Additions that computing the value at one point of an axis costs."""
    computed = toposort(value, enter=lambda n: along in n.ranges)
    return sum(
        COST.get(n.op, 1)
        for n in computed
        if along in n.ranges and n.op in ELEMENTWISE and n.dtype.name != "index"
    )


def keep_opts(kernel: UOp, capabilities: Capabilities) -> list[Keep]:
    """Keeps what is computed twice, where a row of it stays in the second cache beside what is
    read and written meanwhile."""
    caches = capabilities.cache_bytes[:2]
    room = min(caches[-1] // 4 if caches else 0, capabilities.local_bytes)
    for opt in candidates(kernel):
        first, second = axis(kernel, opt.axis), axis(kernel, opt.again)
        found = repeated(kernel, first, second)
        if found and sum(value.dtype.itemsize for value, _ in found) * size(first) <= room:
            return [opt]
    return []


def candidates(kernel: UOp) -> Iterator[Keep]:
    """Pairs of axes along which the same may be computed."""
    reduced = dict.fromkeys(r for n in nodes_of(kernel) if n.op is Op.REDUCE for r in n.src[1:])
    for second in output_axes(kernel)[::-1]:
        for first in reduced:
            if first.src[0] is second.src[0]:
                yield Keep(first.arg.id, second.arg.id)
