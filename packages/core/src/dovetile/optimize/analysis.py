"""What the optimiser reads off a kernel: its axes, its accesses, and how accesses use the axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from dovetile.ir.ops import ELEMENTWISE, AxisKind, Op
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, nodes_of
from dovetile.optimize.opts import is_idempotent, output_axes


@dataclass(frozen=True)
class Access:
    """A LOAD or STORE: the coefficient of each axis in its index, and how often it happens."""

    node: UOp
    strides: dict[UOp, int]
    opaque: frozenset[UOp]
    count: int

    def stride(self, axis: UOp) -> int | None:
        """Elements between neighbours along an axis; None where the index is not linear in it."""
        return None if axis in self.opaque else self.strides.get(axis, 0)

    def patterned(self, axis: UOp) -> bool:
        """Whether the axis only appears in quotients and remainders, so that the places of the
        lanes along it may be near each other and known in advance."""
        terms, _ = linear_form(self.node.src[0].src[1])
        return all(
            t.op in (Op.FLOORDIV, Op.FLOORMOD) and t.src[1].is_const and t.src[1].arg <= 16
            for t in terms
            if axis in t.ranges
        )


class Analysis:
    """The facts of one kernel."""

    def __init__(self, kernel: UOp) -> None:
        self.kernel = kernel
        self.nodes = nodes_of(kernel)
        self.outputs = output_axes(kernel)
        self.reductions = [n for n in self.nodes if n.op is Op.REDUCE]
        self.free = tuple(r for r in self.outputs if r.arg.kind is AxisKind.LOOP)

    @cached_property
    def accesses(self) -> list[Access]:
        return [access(n) for n in self.nodes if n.op in (Op.LOAD, Op.STORE)]

    @property
    def stores(self) -> list[Access]:
        return [a for a in self.accesses if a.node.op is Op.STORE]

    @property
    def loads(self) -> list[Access]:
        return [a for a in self.accesses if a.node.op is Op.LOAD]

    @cached_property
    def work(self) -> int:
        """Elementwise operations in all, each weighted with its loops."""
        return sum(extent(n.ranges) for n in self.nodes if n.op in ELEMENTWISE or n.op is Op.LOAD)

    @cached_property
    def idempotent(self) -> bool:
        """Whether computing an output element twice does no harm."""
        return is_idempotent(self.kernel)

    @cached_property
    def itemsize(self) -> int:
        """Bytes of the widest data type that the kernel computes with (at least 4)."""
        sizes = [
            n.dtype.itemsize
            for n in self.nodes
            if n.dtype.kind in "uif" and n.dtype.name != "index" and n.op is not Op.BUFFER
        ]
        return max([4, *sizes])


def access(node: UOp) -> Access:
    """The access of a LOAD or STORE."""
    terms, _ = linear_form(node.src[0].src[1])
    strides = {t: c for t, c in terms.items() if t.op is Op.RANGE}
    opaque = frozenset().union(*(t.ranges for t in terms if t.op is not Op.RANGE))
    return Access(node, strides, opaque, extent(node.ranges))


def size(axis: UOp) -> int:
    """Iterations of an axis (at most, where that is not constant)."""
    return int(axis.src[0].maximum)


def extent(axes: frozenset[UOp] | tuple[UOp, ...]) -> int:
    """Points of all these axes together."""
    return math.prod(size(r) for r in axes)


def power_of_two_up_to(n: int) -> int:
    """The largest power of two that is not above n."""
    return 1 << (max(n, 1).bit_length() - 1)
