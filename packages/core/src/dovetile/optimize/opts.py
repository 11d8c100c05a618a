"""The moves of the kernel optimiser. A schedule is a short, printable list of them.

A kernel is SINK(END(effects, *axes)): loop-level values under the axes of its output, in loop
order, with REDUCE nodes that bring axes of their own. Axes are named by the id of their RANGE.
Every Opt is a value; `apply` gives the changed kernel, or raises OptError where it would be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from dovetile import dtypes
from dovetile.errors import GraphError
from dovetile.ir.identity import identity
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import rewrite, substitute, substitute_ranges
from dovetile.ir.spec import check
from dovetile.ir.symbolic import simplify_index
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.group_units import operand_of
from dovetile.lower.linear import buffer_of, plain
from dovetile.plugins.matrix_unit import MatrixUnit


class OptError(GraphError):
    """An Opt that cannot be applied to this kernel."""


class Opt(Protocol):
    def apply(self, kernel: UOp) -> UOp: ...


def axis(kernel: UOp, id: int) -> UOp:
    """The RANGE of that id."""
    for node in nodes_of(kernel):
        if node.op is Op.RANGE and node.arg.id == id:
            return node
    raise OptError(f"[opt] the kernel has no axis {id}")


def axes(kernel: UOp) -> list[UOp]:
    """All RANGEs of the kernel: those of the output in loop order, then those of reductions."""
    found = dict.fromkeys(output_axes(kernel))
    found.update(dict.fromkeys(n for n in nodes_of(kernel) if n.op is Op.RANGE))
    return list(found)


def output_axes(kernel: UOp) -> tuple[UOp, ...]:
    """The axes of the output in loop order, outermost first."""
    return kernel.src[0].src[1:] if kernel.src[0].op is Op.END else ()


def next_id(kernel: UOp) -> int:
    return max((r.arg.id for r in axes(kernel)), default=-1) + 1


def replace_axes(
    kernel: UOp, values: dict[UOp, UOp], lists: dict[UOp, tuple[UOp, ...]] | None = None
) -> UOp:
    """The kernel with RANGEs replaced: by a value where they are used, by other RANGEs where they
    are listed (END, REDUCE, STAGE)."""
    lists = lists or {}
    done: dict[UOp, UOp] = {}
    for node in nodes_of(kernel):
        if node in values:
            done[node] = values[node]
        elif node.op in (Op.END, Op.REDUCE, Op.STAGE):
            listed: list[UOp] = []
            for r in node.src[1:]:
                listed += lists[r] if r in lists else (done[r],)
            done[node] = node.with_sources((done[node.src[0]], *listed))
        else:
            done[node] = node.with_sources(tuple([done[s] for s in node.src]))
    return done[kernel]


# Linear index expressions need no simplification after an axis has been replaced by a sum of axes:
# whoever reads them takes their linear form. These are not linear.
_NOT_LINEAR = frozenset({Op.FLOORDIV, Op.FLOORMOD, Op.LT, Op.NE, Op.MAX})


def simplify(kernel: UOp) -> UOp:
    """The kernel with its index expressions simplified, where that can change anything."""
    for node in nodes_of(kernel):
        if node.op in _NOT_LINEAR and node.src[0].dtype is dtypes.index:
            return rewrite(kernel, simplify_index)
    return kernel


def is_idempotent(kernel: UOp) -> bool:
    """Whether computing an output element twice does no harm."""
    nodes = nodes_of(kernel)
    written = {n.src[0].src[0] for n in nodes if n.op is Op.STORE}
    in_order = any(r.arg.kind is AxisKind.REDUCE for r in output_axes(kernel))
    return not in_order and all(n.src[0].src[0] not in written for n in nodes if n.op is Op.LOAD)


def _require_outer_first(ranges: Sequence[UOp], opt: str) -> None:
    """A loop whose length depends on another's counter stands inside of it."""
    seen: set[UOp] = set()
    for r in ranges:
        late = r.src[0].ranges.intersection(ranges) - seen
        if late:
            ids = sorted(o.arg.id for o in late)
            raise OptError(f"[{opt}] the length of axis {r.arg.id} depends on {ids}; those first")
        seen.add(r)


@dataclass(frozen=True)
class Split:
    """Axis of n -> (new outer axis, this axis of `size`), the outer one just outside.

    ragged: what happens when size does not divide n. "overlap": the last block starts early, so
    that some elements are computed twice, which needs stores that do not read what they overwrite.
    "short": the last block is shorter, so the inner axis stays a loop. "masked": the last block
    goes on behind the end, where nothing is read or written and sums get nothing; so may the only
    one.
    """

    axis: int
    size: int
    ragged: str = "overlap"

    def apply(self, kernel: UOp) -> UOp:
        old = axis(kernel, self.axis)
        length = old.src[0]
        if not length.is_const and self.ragged != "short":
            raise OptError(f"[Split] axis {self.axis} has no constant size")
        n = int(length.maximum)
        if self.size < 1 or self.size > n and self.ragged != "masked":
            raise OptError(f"[Split] size {self.size} of axis {self.axis}, which has {n}")
        if old.arg.kind not in (AxisKind.LOOP, AxisKind.REDUCE):
            raise OptError(f"[Split] axis {self.axis} is {old.arg.kind.name}; split before binding")
        outer = UOp.range(-(-n // self.size), old.arg.kind, next_id(kernel))
        start = outer * self.size
        if n % self.size == 0 and length.is_const:
            inner = UOp.range(self.size, old.arg.kind, self.axis)
        elif self.ragged == "masked":
            inner = UOp.range(self.size, old.arg.kind, self.axis)
            return _masked(kernel, old, start + inner, (outer, inner))
        elif old.arg.kind is AxisKind.REDUCE and self.ragged == "overlap":
            raise OptError("[Split] a reduction would count elements twice")
        elif self.ragged == "overlap":
            if not is_idempotent(kernel):
                raise OptError("[Split] blocks that overlap; this kernel reads what it overwrites")
            inner = UOp.range(self.size, old.arg.kind, self.axis)
            start = start.minimum_with(n - self.size)
        else:
            # Where an axis is itself the rest of a split, the last blocks may be empty.
            inner = UOp.range(
                (start * -1 + length).minimum_with(self.size), old.arg.kind, self.axis
            )
        return replace_axes(kernel, {old: start + inner}, {old: (outer, inner)})


def _masked(kernel: UOp, old: UOp, index: UOp, axes: tuple[UOp, ...]) -> UOp:
    """The kernel with these axes for another, whose points behind the end do nothing."""
    inside = index < old.src[0]
    done: dict[UOp, UOp] = {}
    for node in nodes_of(kernel):
        if node is old:
            done[node] = index
            continue
        listed = (axes if s is old and node.op in _CLOSING else (done[s],) for s in node.src)
        src = tuple(s for sources in listed for s in sources)
        access = node.op in (Op.LOAD, Op.STORE) and old in node.ranges
        if access and node.arg == "held":
            node, src = plain(node), src[:1]  # of what is not read nothing is known
        if node.op is Op.LOAD and access:
            other, gate = src[1:] if len(src) == 3 else (node.const_like(0), None)
            src = (src[0], other, inside if gate is None else gate & inside)
        elif access:
            src = (*src[:2], src[2] & inside if len(src) == 3 else inside)
        elif node.op is Op.REDUCE and old in node.src[1:]:
            nothing = UOp.const(identity(node.arg, node.dtype), node.dtype)
            src = (inside.where(src[0], nothing), *src[1:])
        done[node] = node.with_sources(src)
    return done[kernel]


_CLOSING = (Op.END, Op.REDUCE, Op.STAGE)


@dataclass(frozen=True)
class Bind:
    """Binds an axis to a hardware level, to lanes, or to copies of the body."""

    axis: int
    kind: AxisKind

    def apply(self, kernel: UOp) -> UOp:
        old = axis(kernel, self.axis)
        if old.arg.kind not in (AxisKind.LOOP, AxisKind.REDUCE):
            raise OptError(f"[Bind] axis {self.axis} is {old.arg.kind.name} already")
        if old.arg.kind is AxisKind.REDUCE:
            if self.kind in (AxisKind.THREAD, AxisKind.GROUP):
                raise OptError(f"[Bind] axis {self.axis} is reduced; its parts are not independent")
            if old in output_axes(kernel):
                raise OptError(f"[Bind] axis {self.axis} writes elements several times, in order")
        if self.kind in _CONSTANT and not old.src[0].is_const:
            raise OptError(f"[Bind] axis {self.axis} has no constant size")
        if self.kind in (AxisKind.VECTOR, AxisKind.LOCAL) and old.src[0].arg & (old.src[0].arg - 1):
            what = "lanes" if self.kind is AxisKind.VECTOR else "threads"
            raise OptError(f"[Bind] {old.src[0].arg} {what}; a power of two is right")
        self._require_single(kernel, old)
        if self.kind in (AxisKind.UNROLL, AxisKind.VECTOR) and any(
            n.op in (Op.STAGE, Op.AFTER) and old in n.ranges for n in nodes_of(kernel)
        ):
            raise OptError(f"[Bind] axis {self.axis} is outside of what LOCAL memory holds")
        new = UOp.range(old.src[0], self.kind, self.axis)
        return replace_axes(kernel, {old: new}, {old: (new,)})

    def _require_single(self, kernel: UOp, old: UOp) -> None:
        """A value has lanes along one axis; a kernel has one axis of parts."""
        if self.kind is AxisKind.THREAD:
            taken = any(r.arg.kind is self.kind for r in axes(kernel))
        else:
            taken = self.kind is AxisKind.VECTOR and any(
                old in n.ranges and any(r.arg.kind is self.kind for r in n.ranges)
                for n in nodes_of(kernel)
            )
        if taken:
            raise OptError(f"[Bind] axis {self.axis}: there is a {self.kind.name} axis already")


_CONSTANT = frozenset({AxisKind.UNROLL, AxisKind.VECTOR, AxisKind.GROUP, AxisKind.LOCAL})


@dataclass(frozen=True)
class Order:
    """The output axes in this order, outermost first."""

    axes: tuple[int, ...]

    def apply(self, kernel: UOp) -> UOp:
        end = kernel.src[0]
        named = {r.arg.id: r for r in end.src[1:]}
        if sorted(named) != sorted(self.axes):
            raise OptError(f"[Order] {self.axes} does not order the axes {sorted(named)}")
        ordered = [named[i] for i in self.axes]
        if [r for r in ordered if r.arg.kind is AxisKind.REDUCE] != [
            r for r in end.src[1:] if r.arg.kind is AxisKind.REDUCE
        ]:
            raise OptError(f"[Order] {self.axes} changes which of several writes comes last")
        _require_outer_first(ordered, "Order")
        changed = end.replace(src=(end.src[0], *ordered))
        return kernel.replace(src=(changed, *kernel.src[1:]))


@dataclass(frozen=True)
class ReduceOrder:
    """The axes of every reduction over exactly these, in this order."""

    axes: tuple[int, ...]

    def apply(self, kernel: UOp) -> UOp:
        changes = {}
        for node in nodes_of(kernel):
            if node.op is Op.REDUCE and {r.arg.id for r in node.src[1:]} == set(self.axes):
                named = {r.arg.id: r for r in node.src[1:]}
                ordered = [named[i] for i in self.axes]
                _require_outer_first(ordered, "ReduceOrder")
                changes[node] = node.replace(src=(node.src[0], *ordered))
        if not changes:
            raise OptError(f"[ReduceOrder] no reduction is over the axes {self.axes}")
        return rewrite_listed(kernel, changes)


@dataclass(frozen=True)
class GroupReduce:
    """Keeps a partial result for every point of some axes of a reduction, then reduces those."""

    axes: tuple[int, ...]

    def apply(self, kernel: UOp) -> UOp:
        changes = {}
        for node in nodes_of(kernel):
            if node.op is not Op.REDUCE:
                continue
            last = tuple(r for r in node.src[1:] if r.arg.id in self.axes)
            if last and len(last) < len(node.src) - 1:
                first = tuple(r for r in node.src[1:] if r not in last)
                partial = node.replace(src=(node.src[0], *first))
                changes[node] = node.replace(src=(partial, *last))
        if not changes:
            raise OptError(f"[GroupReduce] no reduction is over axes {self.axes} and others")
        return rewrite_listed(kernel, changes)


@dataclass(frozen=True)
class Tail:
    """Splits a reduced axis of n: the first multiple of `size`, and a loop of its own for the rest,
    so that the main loop needs no conditions."""

    axis: int
    size: int

    def apply(self, kernel: UOp) -> UOp:
        old = axis(kernel, self.axis)
        if not old.src[0].is_const:
            raise OptError(f"[Tail] axis {self.axis} has no constant size")
        n = old.src[0].arg
        if not 1 <= self.size < n or n % self.size == 0:
            raise OptError(f"[Tail] size {self.size} of axis {self.axis}, which has {n}; no rest")
        main = n - n % self.size
        body = UOp.range(main, old.arg.kind, self.axis)
        rest = UOp.range(n - main, old.arg.kind, next_id(kernel))
        changes = {}
        for node in nodes_of(kernel):
            if node.op is Op.REDUCE and old in node.src[1:]:
                ranges = tuple(body if r is old else r for r in node.src[1:])
                tails = tuple(rest if r is old else r for r in node.src[1:])
                main_body = substitute_ranges(node.src[0], {old: body})
                tail_body = substitute_ranges(node.src[0], {old: rest + main})
                first = node.replace(src=(main_body, *ranges))
                changes[node] = first.alu(node.arg, node.replace(src=(tail_body, *tails)))
        if not changes:
            raise OptError(f"[Tail] axis {self.axis} is not reduced")
        return rewrite_listed(kernel, changes)


@dataclass(frozen=True)
class Stage:
    """Holds an operand of the contraction in LOCAL memory for all points of some axes.

    operand: 0 or 1, the side of the product that the kernel sums up; of several products, 2 and 3
    are those of the second, and so on.
    """

    operand: int
    axes: tuple[int, ...]
    space: AddressSpace = AddressSpace.LOCAL
    depth: int = 1

    def apply(self, kernel: UOp) -> UOp:
        products = contracted_products(kernel)
        if not products:
            raise OptError("[Stage] the kernel sums up no product")
        if not 0 <= self.operand < 2 * len(products):
            count = len(products)
            raise OptError(
                f"[Stage] operand {self.operand} of {count} products; a product has 0 and 1"
            )
        product, side = products[self.operand // 2], self.operand % 2
        value = product.src[side]
        if by_unit(kernel, product):
            value = operand_of(value)
        named = {r.arg.id: r for r in value.ranges}
        missing = [i for i in self.axes if i not in named]
        if missing:
            raise OptError(f"[Stage] operand {self.operand} does not depend on axes {missing}")
        open_ = [
            i
            for i, r in named.items()
            if r.arg.kind in (AxisKind.UNROLL, AxisKind.VECTOR) and i not in self.axes
        ]
        if open_:
            raise OptError(f"[Stage] axes {sorted(open_)} are copies or lanes; hold those too")
        ranges = tuple(named[i] for i in self.axes)
        staged = value.stage(*ranges, space=self.space, depth=self.depth)
        operand = substitute(product.src[side], {value: staged})
        return substitute(kernel, {product: _with_operand(product, side, operand)})


@dataclass(frozen=True)
class Stream:
    """Lets the vectors that the kernel stores pass by the caches, into buffers it does not read.

    A store to the caches first reads the line it overwrites, and that takes another line's place.
    """

    def apply(self, kernel: UOp) -> UOp:
        nodes = nodes_of(kernel)
        read = {buffer_of(n.src[0]) for n in nodes if n.op is Op.LOAD}
        changes = {
            n: n.replace(arg="streaming")
            for n in nodes
            if n.op is Op.STORE and buffer_of(n.src[0]) not in read and n.arg is None
        }
        if not changes:
            raise OptError("[Stream] every buffer that the kernel writes is read by it, or streams")
        return substitute(kernel, changes)


@dataclass(frozen=True)
class Accumulate:
    """Holds the sums of the outer part of a grouped reduction in LOCAL memory, for all points of
    some output axes, so that its loops stand around those axes: an operand's panel that depends on
    those loops only is then made once for all of the sums."""

    axes: tuple[int, ...]

    def apply(self, kernel: UOp) -> UOp:
        sums = [
            n
            for n in nodes_of(kernel)
            if n.op is Op.REDUCE and n.src[0].op is Op.REDUCE and n.arg is n.src[0].arg
        ]
        if len(sums) != 1:
            raise OptError(f"[Accumulate] {len(sums)} grouped reductions; right is one")
        named = {r.arg.id: r for r in output_axes(kernel)}
        if missing := [i for i in self.axes if i not in named]:
            raise OptError(f"[Accumulate] axes {missing} are not of the output")
        ranges = tuple(named[i] for i in self.axes)
        return substitute(kernel, {sums[0]: sums[0].stage(*ranges, space=AddressSpace.LOCAL)})


def contracted_product(kernel: UOp) -> UOp | None:
    """The MUL that a REDUCE ADD of this kernel sums up, the first one that has two sides."""
    return next(iter(contracted_products(kernel)), None)


def contracted_products(kernel: UOp) -> list[UOp]:
    """The MULs of two sides that the REDUCE ADDs of this kernel sum up, in order of appearance."""
    found: dict[UOp, None] = {}
    for node in nodes_of(kernel):
        if node.op is Op.REDUCE and (node.arg is Op.ADD or isinstance(node.arg, MatrixUnit)):
            body = node.src[0]
            while body.op is Op.CAST:
                body = body.src[0]
            if body.op is Op.MUL and not (body.src[0].is_const or body.src[1].is_const):
                found[body] = None
    return list(found)


def by_unit(kernel: UOp, product: UOp) -> bool:
    """Whether a matrix unit multiplies this."""
    return any(
        n.op is Op.REDUCE and isinstance(n.arg, MatrixUnit) and n.src[0] is product
        for n in nodes_of(kernel)
    )


def _with_operand(product: UOp, operand: int, value: UOp) -> UOp:
    src = list(product.src)
    src[operand] = value
    return product.replace(src=tuple(src))


def loads(kernel: UOp) -> list[UOp]:
    """The LOADs of a kernel, in order of appearance."""
    return [n for n in nodes_of(kernel) if n.op is Op.LOAD]


def rewrite_listed(kernel: UOp, changes: dict[UOp, UOp]) -> UOp:
    """Replaces nodes, innermost ones first, also inside the replacements of others."""
    done: dict[UOp, UOp] = {}
    for node in nodes_of(kernel):
        if node in changes:
            source = changes[node]
            done[node] = substitute(source, {o: n for o, n in done.items() if o is not n})
        else:
            done[node] = node.with_sources(tuple([done[s] for s in node.src]))
    return done[kernel]


def apply_opts(kernel: UOp, opts: Iterable[Opt]) -> UOp:
    """The kernel after all of these, in order."""
    for opt in opts:
        kernel = _applied(kernel, opt)
    return simplify(kernel)


@lru_cache(maxsize=64)
def _applied(kernel: UOp, opt: Opt) -> UOp:
    """Remembered: what decides on the last Opts has applied the first ones already."""
    changed = opt.apply(kernel)
    check(changed, "loop", repr(opt))
    return changed


def describe(opts: Sequence[Opt]) -> str:
    """One line, as DEBUG prints it."""
    return ", ".join(repr(o) for o in opts) or "(none)"
