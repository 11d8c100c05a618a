"""Workgroups: axes bound to the grid and to the threads of a group become launch indices.

A kernel is launched with one flat index for groups and one for the threads of a group. GROUP axes
are digits of the first. A LOCAL axis is some bits of the second, the lower the nearer its elements
are, so that neighbours in memory belong to neighbouring threads. Axes of loops that are not inside
each other may be the same bits: the threads that reduce a row also write it. A REDUCE over them
becomes COMBINE, an exchange between threads: by SHUFFLE within a warp, through LOCAL memory between
warps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from dovetile import dtypes
from dovetile.errors import GraphError
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.expand import combined
from dovetile.lower.linear import barrier, buffer_of
from dovetile.lower.stages import aligned, local_bytes
from dovetile.plugins.matrix_unit import GroupUnit

# -- The grid --------------------------------------------------------------------------------------


def bind_parts(sink: UOp) -> UOp:
    """THREAD and GROUP axes become the launch indices "part" and "group"."""
    from dovetile.optimize.opts import replace_axes, simplify

    for kind, name in ((AxisKind.THREAD, "part"), (AxisKind.GROUP, "group")):
        end = sink.src[0]
        bound = [r for r in end.src[1:] if r.arg.kind is kind] if end.op is Op.END else []
        if not bound:
            continue
        values: dict[UOp, UOp] = {}
        total = 1
        for r in bound:
            total *= r.src[0].arg
        flat, stride = UOp(Op.SPECIAL, dtypes.index, (UOp.const(total),), name), 1
        growing = {r for n in nodes_of(sink) if n.op is Op.RANGE for r in n.src[0].ranges}
        for r in reversed(bound):
            values[r] = digit = _digit(flat, stride, r.src[0].arg, total)
            if r in growing and kind is AxisKind.GROUP and _grows(sink, r):
                values[r] = digit * -1 + (r.src[0].arg - 1)  # the longest begin first
            stride *= r.src[0].arg
        # Lengths of loops may depend on them, which are to be the same wherever a pass goes by.
        sink = simplify(replace_axes(sink, values, dict.fromkeys(bound, ())))
    return sink


def _grows(sink: UOp, axis: UOp) -> bool:
    """Whether loops are longer for the last point of an axis than for the first."""
    lengths = [n.src[0] for n in nodes_of(sink) if n.op is Op.RANGE and axis in n.src[0].ranges]
    first, last = (
        sum(int(substitute_ranges(n, {axis: UOp.const(i)}).maximum) for n in lengths)
        for i in (0, axis.src[0].arg - 1)
    )
    return first < last


def _digit(flat: UOp, stride: int, size: int, total: int) -> UOp:
    value = flat // stride if stride > 1 else flat
    return value % size if stride * size < total else value


# -- Threads ---------------------------------------------------------------------------------------


def thread_strides(sink: UOp, line_bytes: int = 0) -> dict[UOp, int]:
    """For every LOCAL axis what one step along it adds to the thread's index.

    The axes of one loop, and those around it, are different bits; the nearer the elements of
    neighbours along an axis, in what is accessed most often, the lower they are. What is not in one
    line of memory is far: there, inner axes have the lower bits.
    """
    if not any(n.op is Op.RANGE and n.arg.kind is AxisKind.LOCAL for n in nodes_of(sink)):
        return {}
    apart: dict[UOp, set[UOp]] = {}
    near: dict[UOp, tuple[int, int]] = {}
    inner: dict[UOp, int] = {}
    for node in nodes_of(sink):
        if node.op in (Op.END, Op.REDUCE):
            own = [r for r in node.src[1:] if r.arg.kind is AxisKind.LOCAL]
            around = [r for r in node.ranges if r.arg.kind is AxisKind.LOCAL]
            for r in own:
                inner[r] = node.src.index(r)
                apart.setdefault(r, set()).update(own, around)
                for other in around:
                    apart.setdefault(other, set()).add(r)
        elif node.op is Op.INDEX and buffer_of(node).arg.space is AddressSpace.GLOBAL:
            often = -math.prod(int(r.src[0].maximum) for r in node.ranges)
            for term, factor in linear_form(node.src[1])[0].items():
                step = abs(factor) * buffer_of(node).dtype.itemsize
                step = step if step < (line_bytes or _FAR) else _FAR
                for r in term.ranges:
                    near[r] = min(near.get(r, (0, 0)), (often, step if term is r else _FAR))
    strides = _unit_strides(sink)

    def order(r: UOp) -> tuple[int, int, int]:
        return near[r][1] if r in near else _FAR, -inner.get(r, 0), -r.arg.id

    for r in sorted(apart, key=order):
        if r in strides:
            continue
        taken = _masks(apart[r], strides)
        stride, size = 1, _threads_along(r)
        while taken & (size - 1) * stride:
            stride *= 2
        strides[r] = stride
    return strides


_FAR = 1 << 62


def _unit_strides(sink: UOp) -> dict[UOp, int]:
    """Those of the axes that the threads of a matrix unit are."""
    strides: dict[UOp, int] = {}
    by_id = {n.arg.id: n for n in nodes_of(sink) if n.op is Op.RANGE}
    for node in nodes_of(sink):
        if isinstance(node.arg, GroupUnit):
            stride = 1
            for n, place in node.arg.thread_digits:
                # That of an operand's columns may be gone, with all that is asked of them.
                if node.arg.axes[place] in by_id:
                    strides[by_id[node.arg.axes[place]]] = stride
                stride *= n
    return strides


def _threads_along(axis: UOp) -> int:
    size = axis.src[0]
    if not size.is_const or size.arg & (size.arg - 1):
        raise GraphError(f"[lower] axis {axis.arg.id} of threads; its size must be a power of two")
    return size.arg


def _masks(axes: Iterable[UOp], strides: dict[UOp, int]) -> int:
    """The bits of the thread's index that these axes are, some of them perhaps the same."""
    mask = 0
    for r in axes:
        mask |= (_threads_along(r) - 1) * strides[r] if r in strides else 0
    return mask


def threads_of(strides: dict[UOp, int]) -> int:
    """Threads of a workgroup with these axes."""
    return max((_threads_along(r) * stride for r, stride in strides.items()), default=1)


def bind_threads(sink: UOp, strides: dict[UOp, int]) -> UOp:
    """LOCAL axes become bits of the launch index "local".

    Where threads would store the same, the first of them does.
    """
    if not strides:
        return sink
    threads = threads_of(strides)
    local = UOp(Op.SPECIAL, dtypes.index, (UOp.const(threads),), "local")
    done: dict[UOp, UOp] = {}
    for node in nodes_of(sink):
        if node in strides:
            done[node] = _digit(local, strides[node], _threads_along(node), threads)
            continue
        kept = tuple(done[s] for s in node.src if s not in strides or node.op not in _LISTING)
        emptied = node.op in (Op.END, Op.AFTER, Op.REDUCE) and len(kept) == 1 < len(node.src)
        new = kept[0] if emptied else node.with_sources(kept)
        if node.op is Op.REDUCE:
            mask = _masks(node.src[1:], strides)
            if new.op is Op.GROUP:
                new = combined(node.arg, list(new.src))
            new = UOp(Op.COMBINE, node.dtype, (new,), (node.arg, mask)) if mask else new
        elif node.op is Op.FETCH:
            by_one = new.src[2] & _bits(local, threads - 1).eq(0)
            new = new.replace(src=(*new.src[:2], by_one, *new.src[3:]))
        elif node.op is Op.STORE and buffer_of(node.src[0]).arg.space is not AddressSpace.REG:
            unused = threads - 1 & ~_masks(node.ranges, strides)
            new = _by_first(new, local, unused) if unused else new
        done[node] = new
    return done[sink]


_LISTING = frozenset({Op.END, Op.REDUCE, Op.AFTER, Op.BARRIER, Op.WAIT})


def _by_first(store: UOp, local: UOp, bits: int) -> UOp:
    """The store, done by the threads of which these bits are zero."""
    gate = _bits(local, bits).eq(0)
    gate = store.src[2] & gate if len(store.src) > 2 and store.src[2].dtype.lanes == 1 else gate
    if len(store.src) > 2 and store.src[2].dtype.lanes > 1:
        gate = store.src[2] & UOp(Op.VECTOR, store.src[2].dtype, (gate,))
    return store.replace(src=(*store.src[:2], gate))


def _bits(local: UOp, mask: int) -> UOp:
    """These bits of an index, moved together."""
    value, position = UOp.const(0), 0
    for start, count in _fields(mask):
        part = _digit(local, 1 << start, 1 << count, local.src[0].arg)
        part = part * (1 << position) if position else part
        value = part if value.is_const else value + part
        position += count
    return value


def _fields(mask: int) -> Iterator[tuple[int, int]]:
    """(first, count) of every run of bits that are set."""
    start = 0
    while mask >> start:
        if mask >> start & 1:
            count = 1
            while mask >> start + count & 1:
                count += 1
            yield start, count
            start += count
        else:
            start += 1


# -- Exchange between threads ----------------------------------------------------------------------


def lower_combines(sink: UOp, warp: int) -> UOp:
    """`sink` without COMBINE. warp: threads that exchange values by SHUFFLE; 0 or 1 for none."""
    while True:
        groups = _combines(sink)
        if not groups:
            return sink
        changes: dict[UOp, UOp] = {}
        offset = local_bytes(sink)
        local = _launch_index(sink)
        for (mask, outer), nodes in groups.items():
            offset = _exchanged(nodes, mask, outer, local, max(warp, 1), offset, changes)
        sink = substitute(sink, changes)


def _combines(sink: UOp) -> dict[tuple[int, tuple[UOp, ...]], list[UOp]]:
    """The innermost COMBINEs, by what they can share: their bits, and the loops around them."""
    above: set[UOp] = set()
    groups: dict[tuple[int, tuple[UOp, ...]], list[UOp]] = {}
    for node in nodes_of(sink):
        inside = bool(above) and any(s in above for s in node.src)
        if node.op is Op.COMBINE and not inside:
            outer = tuple(sorted(node.ranges, key=lambda r: r.arg.id))
            groups.setdefault((node.arg[1], outer), []).append(node)
        if inside or node.op is Op.COMBINE:
            above.add(node)
    return groups


def _exchanged(
    nodes: list[UOp], mask: int, outer: tuple[UOp, ...], local: UOp, warp: int, offset: int,
    changes: dict[UOp, UOp],
) -> int:  # fmt: skip
    """Adds what these nodes become; returns where free LOCAL memory begins."""
    within, across = mask & (warp - 1), mask & ~(warp - 1)
    values = []
    for node in nodes:
        value, op = node.src[0], node.arg[0]
        for bit in range(within.bit_length()):
            if within >> bit & 1:
                value = value.alu(op, UOp(Op.SHUFFLE, value.dtype, (value,), 1 << bit))
        values.append(value)
    if not across:
        changes.update(zip(nodes, values))
        return offset
    # One place for each thread that has something of its own to say.
    threads = local.src[0].arg
    kept, others = threads - 1 & ~within, threads - 1 & ~mask
    own, count = _bits(local, others), 1 << others.bit_count()
    place = _bits(local, across) * count + own
    gate = (_bits(local, within).eq(0),) if within else ()
    # In a loop the last round's places may still be read.
    ready = (barrier(*outer),) if outer else ()
    buffers, stores = [], []
    for value in values:
        lanes = value.dtype.lanes
        buffer = UOp.buffer(
            (1 << kept.bit_count()) * lanes, value.dtype.scalar, slot=offset,
            space=AddressSpace.LOCAL,
        )  # fmt: skip
        offset += aligned(buffer.arg.size * buffer.dtype.itemsize)
        buffers.append(buffer)
        stores.append(buffer.after(*ready).index(place * lanes).store(value, *gate))
    met = barrier(*stores)
    for node, value, buffer in zip(nodes, values, buffers):
        lanes, held = value.dtype.lanes, buffer.after(met)
        terms = [
            held.index((own + i * count) * lanes).load(dtype=value.dtype)
            for i in range(1 << across.bit_count())
        ]
        changes[node] = combined(node.arg[0], terms)
    return offset


def _launch_index(sink: UOp) -> UOp:
    """The thread's index. What threads combine may be the same for all, but one stores it."""
    for node in nodes_of(sink):
        if node.op is Op.SPECIAL and node.arg == "local":
            return node
    raise GraphError("[lower] threads combine values, but nothing tells them apart")
