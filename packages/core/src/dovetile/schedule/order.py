"""In which order the elements of a held value lie in memory: its axes, outermost first.

Memory that others see is row-major. What only kernels of one graph pass to each other lies as suits
them:

* Where windows slide over one operand of a contraction (a convolution), the axes of the result that
  only the other operand has come last: the channels of a place side by side. The next contraction
  sums over them, so it reads runs; its own result is written in vectors; normalisation and pooling
  treat all channels of a place alike, whatever the sizes of the image.
* A kernel that reads a value in such an order writes its own in the order in which it reads, and
  sums along it.
* Where all others read a value with its axes moved, whole rows at a time (the heads of attention,
  side by side again), it lies as they read it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, nodes_of, toposort
from dovetile.optimize.analysis import Access, access, extent, size
from dovetile.optimize.opts import rewrite_listed

Order = tuple[int, ...]


def order_of(
    kernel: UOp, axes: tuple[UOp, ...], contraction: bool, ordered: Collection[UOp], lanes: int
) -> Order | None:
    """The order for the value that a kernel computes at `axes`; None for row-major.

    ordered: the BUFFERs that are in an order of their own.
    lanes: elements of a vector; fewer channels than this do not fill one.
    """
    loads = [access(n) for n in nodes_of(kernel) if n.op is Op.LOAD]
    leaders = [a for a in loads if a.buffer in ordered]
    if contraction:
        windows = [a for a in loads if extent(a.node.ranges) >= 2 * a.buffer.arg.size]
        results = math.prod(size(r) for r in axes if r.op is Op.RANGE)
        operands = [a for a in loads if not a.node.ranges <= set(axes)]
        plain = [a.buffer.arg.size for a in operands if a not in windows]
        if windows and plain and results > max(plain):
            leaders = windows
    leaders = [a for a in leaders if not a.opaque.intersection(axes)]
    if not leaders:
        return None
    leader = max(leaders, key=lambda a: a.buffer.arg.size)
    if contraction and math.prod(size(r) for r in _alone(axes, leader)) < lanes:
        return None
    order = tuple(sorted(range(len(axes)), key=lambda i: -leader.strides.get(axes[i], 0)))
    return None if order == tuple(range(len(axes))) else order


def _alone(axes: tuple[UOp, ...], leader: Access) -> list[UOp]:
    return [r for r in axes if r.op is Op.RANGE and r not in leader.strides]


def as_read(users: Sequence[UOp]) -> Order | None:
    """The order in which all users read a value, if that is another one but leaves the last axis in
    its place, so that rows stay runs of memory."""
    first = users[0] if users else None
    if first is None or any(u.op is not Op.PERMUTE or u.arg != first.arg for u in users):
        return None
    order = tuple(first.arg)
    return order if order[-1] == len(order) - 1 and order != tuple(range(len(order))) else None


def sums_along(body: UOp, ordered: Collection[UOp]) -> UOp:
    """The body with the loops of each sum in the order of what it reads."""
    changes = {}
    for node in toposort(body):
        if node.op is Op.REDUCE and len(node.src) > 2:
            loads = [access(n) for n in toposort(node.src[0]) if n.op is Op.LOAD]
            leaders = [a for a in loads if a.buffer in ordered and not a.opaque & node.ranges]
            if leaders:
                strides = max(leaders, key=lambda a: a.buffer.arg.size).strides
                ranges = sorted(node.src[1:], key=lambda r: -strides.get(r, 0))
                changes[node] = node.replace(src=(node.src[0], *ranges))
    return rewrite_listed(body, changes) if changes else body
