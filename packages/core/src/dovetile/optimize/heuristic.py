"""Heuristics for everything that is not a contraction: elementwise work, reductions, movement.

Vectors first: along the output axis or, inside a reduction, along the reduced axis, whichever makes
most accesses contiguous. Then copies for independent accumulators, then threads.
"""

from __future__ import annotations

import math

from dovetile.ir.ops import ELEMENTWISE, AxisKind, Op
from dovetile.ir.uop import UOp
from dovetile.optimize.analysis import (
    COST,
    MOST_CHOICES,
    PAGE,
    Access,
    Analysis,
    extent,
    power_of_two_up_to,
    size,
)
from dovetile.optimize.group_tiles import group_tile_opts
from dovetile.optimize.keep import keep_opts
from dovetile.optimize.opts import (
    Bind,
    GroupReduce,
    Opt,
    Order,
    Split,
    Stream,
    Tail,
    apply_opts,
    output_axes,
)
from dovetile.optimize.transposes import transpose_opts
from dovetile.optimize.unit_blocks import group_unit_opts
from dovetile.optimize.workgroups import workgroup_opts
from dovetile.plugins.specs import Capabilities

_STRIDED = 1.2
# What all workers do is worth doing by each of them where it is so many times less than the rest.
_AGAIN = 64
# Sums that are done at a time where they share what they read, and rows that are read at a time
# where memory is waited for: what fetches ahead of loads follows each of them by itself, and one
# does not keep memory busy.
_ROWS, _STREAMS = 4, 8
# Operations that copies of a loop's body may have together: code is compiled, and must fit caches.
_LARGEST_BODY = 128


def loop_opts(facts: Analysis, capabilities: Capabilities) -> list[Opt]:
    """The schedule of a kernel that is no contraction."""
    opts: list[Opt] = []
    lanes = capabilities.vector_bytes // facts.itemsize
    small = _small_reductions(facts)
    opts += [Bind(r.arg.id, AxisKind.UNROLL) for r in small]
    vector, reduced = (None, {}) if lanes < 2 else _vector_axes(facts, lanes, small)
    fresh = max((r.arg.id for r in _all_axes(facts)), default=-1) + 1
    if vector is not None:
        width = _lanes_for(vector, lanes, facts.idempotent)
        if width > 1:
            if width < size(vector):
                opts.append(Split(vector.arg.id, width))
                fresh += 1
                blocks = -(-size(vector) // width)
                copies = _copies(facts, vector, blocks, capabilities)
                if copies > 1:
                    opts.append(Split(fresh - 1, copies))
                    opts.append(Bind(fresh - 1, AxisKind.UNROLL))
                    fresh += 1
            opts.append(Bind(vector.arg.id, AxisKind.VECTOR))
    found = _rows_at_a_time(facts, capabilities) if vector is None and reduced else None
    if found is not None:
        row, rows = found
        opts += [Split(row.arg.id, rows), Bind(row.arg.id, AxisKind.UNROLL)]
        fresh += 1
    for axis in dict.fromkeys(reduced.values()):
        width = min(lanes, power_of_two_up_to(size(axis)))
        if width < 2:
            continue
        chunks = size(axis) // width
        copies = 4 if chunks >= 16 else 2 if chunks >= 4 else 1
        copies = min(copies, 2) if found is not None else copies
        block = width * copies
        if size(axis) % block:
            opts.append(Tail(axis.arg.id, block))
            fresh += 1
        whole = size(axis) - size(axis) % block
        grouped = [axis.arg.id]
        if whole > width:
            opts.append(Split(axis.arg.id, width))
            chunk, fresh = fresh, fresh + 1
            if copies > 1:
                if whole > block:
                    opts.append(Split(chunk, copies))
                    fresh += 1
                opts.append(Bind(chunk, AxisKind.UNROLL))
                grouped.insert(0, chunk)
            opts.append(GroupReduce(tuple(grouped)))
        opts.append(Bind(axis.arg.id, AxisKind.VECTOR))
    return opts + _lanes_of_fills(facts, lanes)


def _chosen(facts: Analysis) -> list[Opt]:
    """Copies for the values of counters that choose between values: each computes only its own, and
    all share what several need. Where the remainder of a counter chooses, the axis is split."""
    found: dict[UOp, int] = {}
    for node in facts.nodes:
        # Of two values, NE(counter, 0) has become LT(counter, 1).
        if node.op is Op.WHERE and node.dtype.kind == "f" and node.src[0].op in (Op.NE, Op.LT):
            counter, number = node.src[0].src
            axis, n = counter, size(counter) if counter.op is Op.RANGE else 1
            if counter.op is Op.FLOORMOD and counter.src[1].is_const:
                axis, n = counter.src[0], int(counter.src[1].arg)
            settled = number.is_const and (n == 2 or node.src[0].op is Op.NE)
            if settled and axis in facts.free and size(axis) % n == 0:
                found[axis] = n
    if not found or math.prod(found.values()) > MOST_CHOICES:
        return []
    opts: list[Opt] = []
    fresh = max(r.arg.id for r in _all_axes(facts)) + 1
    outer = {r: r.arg.id for r in facts.outputs}
    for axis, n in found.items():
        outer.pop(axis)
        if n < size(axis):
            opts.append(Split(axis.arg.id, n))
            outer[axis], fresh = fresh, fresh + 1
    order = [outer[r] for r in facts.outputs if r in outer]
    copied = [r.arg.id for r in found]
    return [*opts, Order((*order, *copied)), *(Bind(i, AxisKind.UNROLL) for i in copied)]


def _rows_at_a_time(facts: Analysis, capabilities: Capabilities) -> tuple[UOp, int] | None:
    """(an output axis whose neighbours' sums had better be done together, how many at a time): they
    read once what they have in common, as the rows of a matrix have the vector that it is
    multiplied with, and keep more of the memory on its way."""
    outputs = frozenset(facts.outputs)
    if not facts.idempotent or any(not outputs <= n.ranges for n in facts.reductions):
        return None
    for r in reversed(facts.free):
        along = [a for a in facts.loads if r in a.node.ranges]
        if not r.src[0].is_const or not along:
            continue
        if len(along) < len(facts.loads):
            rows = _ROWS
        elif _waits_for_memory(facts, capabilities):
            rows = power_of_two_up_to(_STREAMS // len(along))
        else:
            continue
        if rows > 1 and size(r) >= rows * max(capabilities.threads, 4):
            return r, rows
    return None


def _waits_for_memory(facts: Analysis, capabilities: Capabilities) -> bool:
    """Whether the caches cannot hold what is read, in rows that are long (what fetches ahead stays
    on a page) and that little is done with."""
    outputs = frozenset(facts.outputs)
    lengths = [extent(tuple(a.node.ranges - outputs)) * a.node.dtype.itemsize for a in facts.loads]
    values = [n for n in facts.nodes if n.op in ELEMENTWISE and n.ranges - outputs]
    work = sum(COST.get(n.op, 1) for n in values if n.dtype.kind == "f")
    small = 2 * _STREAMS * work <= _LARGEST_BODY and 2 * _STREAMS <= capabilities.vector_registers
    return small and min(lengths) >= PAGE and _is_beyond_caches(facts, capabilities)


def _is_beyond_caches(facts: Analysis, capabilities: Capabilities) -> bool:
    """Whether less than all that a kernel touches stays in the last cache. Half of it is counted
    on; who shares it holds other things there."""
    return facts.nbytes > sum(capabilities.cache_bytes[-1:]) // 2


def _lanes_of_fills(facts: Analysis, lanes: int) -> list[Opt]:
    """Vectors for the loops that fill LOCAL memory."""
    opts: list[Opt] = []
    for axis in facts.fills:
        width = _lanes_for(axis, lanes, facts.idempotent) if lanes > 1 else 1
        along = [a for a in facts.accesses if axis in a.node.ranges]
        if width < 2 or any(_price(a, axis, lanes) >= 1.0 for a in along):
            continue
        if width < size(axis):
            opts.append(Split(axis.arg.id, width))
        opts.append(Bind(axis.arg.id, AxisKind.VECTOR))
    return opts


def thread_opts(kernel: UOp, capabilities: Capabilities) -> list[Opt]:
    """Binds an output axis to the workers, in a kernel as it is after the other Opts."""
    threads = capabilities.threads
    outer = set(output_axes(kernel))
    allowed = [r for r in output_axes(kernel) if r.arg.kind is AxisKind.LOOP]
    points = {
        n: extent(n.ranges | frozenset(n.src[1:])) for n in kernel.toposort() if n.op is Op.REDUCE
    }
    most = max(extent(frozenset(outer)), *points.values()) if points else 0
    for node, count in points.items():
        # A small reduction may be done again by every worker, a large one not.
        if count * _AGAIN * threads > most:
            rows = node.ranges & outer
            if rows != frozenset(outer) and not all(
                r.arg.kind in (AxisKind.UNROLL, AxisKind.VECTOR) for r in outer - rows
            ):
                allowed = [r for r in allowed if r in rows]
    best = next((r for r in allowed if size(r) >= 8 * threads), None) or max(
        allowed, key=size, default=None
    )
    if best is None or size(best) < 2 or not best.src[0].is_const:
        return []
    n = size(best)
    parts = min(n, 4 * threads)
    if n == parts:
        return [Bind(best.arg.id, AxisKind.THREAD)]
    fresh = max(r.arg.id for r in kernel.toposort() if r.op is Op.RANGE) + 1
    exact = next((p for p in range(parts, threads, -1) if n % p == 0), None)
    parts = exact or parts
    return [Split(best.arg.id, -(-n // parts), "short"), Bind(fresh, AxisKind.THREAD)]


def _all_axes(facts: Analysis) -> set[UOp]:
    return {n for n in facts.nodes if n.op is Op.RANGE}


def _small_reductions(facts: Analysis) -> list[UOp]:
    """Reduced axes so short that copies are cheaper than a loop."""
    found: dict[UOp, None] = {}
    for node in facts.reductions:
        axes = [r for r in node.src[1:] if r.src[0].is_const]
        if len(axes) == len(node.src) - 1 and extent(tuple(axes)) <= 9:
            found.update(dict.fromkeys(axes))
    return list(found)


def _lanes_for(axis: UOp, lanes: int, idempotent: bool) -> int:
    """Lanes for an axis: blocks may overlap, except where elements must be computed once."""
    n = size(axis)
    width = min(lanes, power_of_two_up_to(n))
    if not idempotent:
        while n % width:
            width //= 2
    return width


def _copies(facts: Analysis, vector: UOp, blocks: int, capabilities: Capabilities) -> int:
    """Independent vectors side by side: a sum along another axis needs several accumulators, and
    reads long stretches of each row, as rows far apart cannot be prefetched."""
    sums = [r for r in facts.reductions if vector in r.ranges]
    if not sums:
        return 1
    body = sum(n.op in ELEMENTWISE and vector in n.ranges for n in facts.nodes)
    most = min(capabilities.vector_registers // 2, _LARGEST_BODY // max(body, 1))
    if any(r is not s and s in r.toposort() for r in sums for s in sums):
        # The second one reads the same columns again: they should still be in the second cache.
        column = max(extent(r.src[1:]) for r in sums) * capabilities.vector_bytes
        most = min(most, sum(capabilities.cache_bytes[1:2]) // (2 * column))
    # All workers shall have some of the blocks.
    others = extent(tuple(r for r in facts.free if r is not vector))
    most = min(most, blocks * others // capabilities.threads)
    return next((copies for copies in range(most, 1, -1) if blocks % copies == 0), 1)


def _vector_axes(
    facts: Analysis, lanes: int, unrolled: list[UOp]
) -> tuple[UOp | None, dict[UOp, UOp]]:
    """(the output axis to vectorise or None, for each REDUCE outside of it the reduced axis)."""
    best: tuple[float, UOp | None, dict[UOp, UOp]] | None = None
    candidates = (r for r in facts.free if r.src[0].is_const and size(r) > 1)
    for vector in [*(r for r in candidates if r not in facts.outside_of_fills), None]:
        cost, reduced = 0.0, {}
        for node in facts.reductions:
            if vector is None or vector not in node.ranges:
                choice = _reduced_axis(facts, node, lanes, unrolled)
                if choice is not None and _lanes_free(node, choice, reduced):
                    reduced[node] = choice
        inside = {r: axis for r in facts.reductions if (axis := reduced.get(r)) is not None}
        axes = set(inside.values())
        for a in facts.accesses:
            # Loads of the loop that vectorises a reduced axis, or those of the output's loop.
            axis = next((r for r in axes if r in a.node.ranges), vector)
            cost += a.count * _price(a, axis, lanes)
        if best is None or cost < best[0]:
            best = (cost, vector, reduced)
    assert best is not None
    return best[1], best[2]


def _lanes_free(node: UOp, axis: UOp, reduced: dict[UOp, UOp]) -> bool:
    """Whether no value would get lanes along `axis` and along that of another reduction, which is
    nested with this one."""
    return all(
        other is axis or other not in node.src[0].ranges and axis not in inner.src[0].ranges
        for inner, other in reduced.items()
    )


def _reduced_axis(facts: Analysis, node: UOp, lanes: int, unrolled: list[UOp]) -> UOp | None:
    loads = [a for a in facts.loads if set(node.src[1:]) & a.node.ranges]
    best, least = None, sum(a.count for a in loads) * 0.99
    for axis in node.src[1:]:
        if axis in unrolled or not axis.src[0].is_const or size(axis) < 4:
            continue
        cost = sum(a.count * _price(a, axis, lanes) for a in loads)
        if cost < least:
            best, least = axis, cost
    return best


def _price(a: Access, axis: UOp | None, lanes: int) -> float:
    """Time of an access per element, when `axis` runs along the lanes of a vector."""
    if axis is None or axis not in a.node.ranges:
        return 1.0 if axis is None else 1.0 / lanes
    stride = a.stride(axis)
    used = min(lanes, power_of_two_up_to(size(axis)))
    if stride == 1:
        return 1.0 / used
    if stride == 0:
        return 1.0 / used
    near = stride is not None and abs(stride) <= 4 or (stride is None and a.patterned(axis))
    return 2.5 / used if near and a.node.op is Op.LOAD else _STRIDED


def heuristic(kernel: UOp, capabilities: Capabilities) -> list[Opt]:
    """The Opts for a kernel on a target."""
    from dovetile.optimize.closed_nests import closed_opts
    from dovetile.optimize.closed_units import closed_unit_opts
    from dovetile.optimize.contraction import contraction_opts

    facts = Analysis(kernel)
    if not facts.outputs and not facts.reductions:
        return []
    if "GROUP" in capabilities.parallel_axes:
        for choose in (group_unit_opts, closed_unit_opts, group_tile_opts, transpose_opts):
            if opts := choose(facts, capabilities):
                return opts
        return workgroup_opts(facts, capabilities)
    opts = closed_opts(facts, capabilities)
    if opts is None:
        opts = contraction_opts(facts, capabilities)
    if opts is None:
        opts = _chosen(facts) or [*keep_opts(kernel, capabilities)]
        opts += loop_opts(Analysis(apply_opts(kernel, opts)) if opts else facts, capabilities)
        if facts.worth_sharing(capabilities):
            opts += thread_opts(apply_opts(kernel, opts), capabilities)
    return opts + stream_opts(facts, capabilities)


def stream_opts(facts: Analysis, capabilities: Capabilities) -> list[Opt]:
    """Stores past the caches where a later kernel would not find the results there anyway: between
    the first store and its next read lies all that this kernel touches."""
    if not capabilities.streaming_stores or not capabilities.cache_bytes:
        return []
    read = {a.buffer for a in facts.loads}
    if not _is_beyond_caches(facts, capabilities) or read.issuperset(
        a.buffer for a in facts.stores
    ):
        return []
    whole = all(_whole_lines(a, capabilities.line_bytes) for a in facts.stores)
    return [Stream()] if whole else []


def _whole_lines(store: Access, line_bytes: int) -> bool:
    """Whether vectors along the contiguous axis cover lines: parts of lines past the caches are far
    slower than stores into them."""
    in_line = max(line_bytes // store.node.src[1].dtype.itemsize, 1)
    return not store.opaque and all(
        size(r) % in_line == 0 if stride == 1 else stride % in_line == 0
        for r, stride in store.strides.items()
    )
