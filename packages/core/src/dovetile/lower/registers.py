"""REG memory at loop level becomes each thread's own: what it holds at once, and no more.

Before, it has an element for each point of some axes around it. The threads and workgroups that
such axes become have registers of their own, and so has each round of a loop; what one thread holds
is an element for each copy and lane.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.linear import buffer_of
from dovetile.lower.stages import position


def unused_slots(sink: UOp) -> Iterator[int]:
    """Numbers for new REG buffers."""
    taken = [n.arg.slot for n in nodes_of(sink) if _registers(n)]
    return itertools.count(max(taken, default=-1) + 1)


def own_registers(sink: UOp) -> UOp:
    """`sink` with such buffers indexed by the copies and lanes alone. They are those that are read
    and written at one place only, which depends on the axes around."""
    places: dict[UOp, set[UOp]] = {}
    around: dict[UOp, set[UOp]] = {}
    for node in nodes_of(sink):
        if node.op is Op.INDEX and _registers(buffer_of(node)):
            places.setdefault(buffer_of(node), set()).add(node.src[1])
            loops = (r for r in node.ranges if r.arg.kind is AxisKind.LOOP)
            around.setdefault(buffer_of(node), set()).update(loops)
    own = {buffer: index.pop() for buffer, index in places.items() if len(index) == 1}
    if not own:
        return sink
    done: dict[UOp, UOp] = {}
    for node in nodes_of(sink):
        src = tuple([done[s] for s in node.src])
        if node in own:
            count = math.prod(int(r.src[0].arg) for r in _held(own[node]))
            done[node] = node.replace(arg=node.arg._replace(size=count))
        elif node.op is Op.INDEX and buffer_of(node) in own:
            axes = _held(node.src[1])
            loops = sorted(around[buffer_of(node)], key=lambda r: r.arg.id)
            place = position(axes)
            done[node] = src[0].after(*(done[r] for r in loops)).index(place)
        else:
            done[node] = node.with_sources(src)
    return done[sink]


def _held(index: UOp) -> tuple[UOp, ...]:
    """The axes of what one thread holds, those of its lanes last."""
    kinds = (AxisKind.UNROLL, AxisKind.VECTOR)
    axes = [r for r in linear_form(index)[0] if r.op is Op.RANGE and r.arg.kind in kinds]
    return tuple(sorted(axes, key=lambda r: (kinds.index(r.arg.kind), r.arg.id)))


def _registers(node: UOp) -> bool:
    return node.op is Op.BUFFER and node.arg.space is AddressSpace.REG
