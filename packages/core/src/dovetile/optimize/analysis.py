"""What the optimiser reads off a kernel: its axes, its accesses, and how accesses use the axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from dovetile.ir.ops import ELEMENTWISE, AddressSpace, AxisKind, Op
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.linear import buffer_of
from dovetile.optimize.opts import is_idempotent, output_axes
from dovetile.plugins.specs import Capabilities

# How much more a register tile gets done in a given time than plain loops do.
TILE_SPEED = 2.0
# Copies of a loop's body, at most, in which what a WHERE chooses by the loop's counter is known.
MOST_CHOICES = 64
# Bytes from one page of memory to the next.
PAGE = 4096
# How many additions the operations cost about.
COST = {Op.EXP2: 8, Op.LOG2: 10, Op.SIN: 16, Op.DIV: 4, Op.SQRT: 4, Op.FLOORDIV: 8, Op.FLOORMOD: 8}


@dataclass(frozen=True)
class Access:
    """A LOAD or STORE: the coefficient of each axis in its index, and how often it happens."""

    node: UOp
    strides: dict[UOp, int]
    opaque: frozenset[UOp]
    count: int
    constant: int
    """What the index has beside the axes."""

    @property
    def buffer(self) -> UOp:
        return buffer_of(self.node.src[0])

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
    def fills(self) -> list[UOp]:
        """The axes of loops that fill LOCAL memory."""
        effects = [e for n in self.nodes if n.op is Op.AFTER for e in n.src[1:] if e.op is Op.END]
        return list(dict.fromkeys(r for e in effects for r in e.src[1:]))

    @cached_property
    def outside_of_fills(self) -> frozenset[UOp]:
        """The axes for every point of which LOCAL memory is filled again."""
        return frozenset().union(*(n.ranges for n in self.nodes if n.op is Op.AFTER))

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
        """Elementwise operations and accesses in all, each weighted with its loops."""
        counted = ELEMENTWISE | {Op.LOAD, Op.STORE}
        return sum(extent(n.ranges) for n in self.nodes if n.op in counted)

    def worth_sharing(self, capabilities: Capabilities, speed: float = 1.0) -> bool:
        """Whether there are several workers, and enough work for them, of which one does `speed`
        times as much in a given time as of plain loops."""
        several = "THREAD" in capabilities.parallel_axes and capabilities.threads > 1
        return several and self.work >= capabilities.shared_work * speed

    @cached_property
    def nbytes(self) -> int:
        """Bytes of distinct memory that the kernel touches."""
        return distinct_bytes(self.nodes)

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
    terms, constant = linear_form(node.src[0].src[1])
    strides = {t: c for t, c in terms.items() if t.op is Op.RANGE}
    opaque = frozenset().union(*(t.ranges for t in terms if t.op is not Op.RANGE))
    return Access(node, strides, opaque, extent(node.ranges), constant)


def distinct_bytes(nodes: list[UOp]) -> int:
    """Bytes of distinct memory that the LOADs and STOREs among these nodes touch, at most."""
    touched: dict[UOp, int] = {}
    for node in nodes:
        if node.op in (Op.LOAD, Op.STORE):
            buffer = buffer_of(node.src[0])
            if buffer.arg.space is not AddressSpace.GLOBAL:
                continue
            count = min(extent(node.ranges), buffer.arg.size)
            touched[buffer] = max(touched.get(buffer, 0), count * buffer.dtype.itemsize)
    return sum(touched.values())


def size(axis: UOp) -> int:
    """Iterations of an axis (at most, where that is not constant)."""
    return int(axis.src[0].maximum)


def extent(axes: frozenset[UOp] | tuple[UOp, ...]) -> int:
    """Points of all these axes together."""
    return math.prod(size(r) for r in axes)


def room(capabilities: Capabilities) -> int:
    """Bytes that the panels of one operand of a contraction may take."""
    last = capabilities.cache_bytes[-1] if capabilities.cache_bytes else 1 << 20
    return min(last // 8, capabilities.local_bytes // 4)


def power_of_two_up_to(n: int) -> int:
    """The largest power of two that is not above n."""
    return 1 << (max(n, 1).bit_length() - 1)
