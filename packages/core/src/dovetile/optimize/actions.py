"""What a search may try next: a few more Opts for a kernel, or a change to a list of them.

Candidates need not be legal, only worth a try: an Opt that may not be applied says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp
from dovetile.optimize.analysis import Analysis, size
from dovetile.optimize.keep import candidates
from dovetile.optimize.online import Online
from dovetile.optimize.opts import (
    Bind,
    GroupReduce,
    Opt,
    Order,
    ReduceOrder,
    Split,
    Stage,
    Stream,
    Tail,
    axes,
    contracted_product,
    next_id,
)
from dovetile.plugins.specs import Capabilities

_COPIES = (2, 3, 4, 6, 8, 12, 14, 16)
_BLOCKS = (8, 16, 32, 64, 128, 256)
_LONGEST_UNROLLED = 16
_THREADS = (4, 8, 16, 32, 64, 128, 256, 512)


def extensions(kernel: UOp, capabilities: Capabilities) -> Iterator[tuple[Opt, ...]]:
    """Opts to apply next to a kernel; what belongs together (a split and its binding) is one."""
    facts = Analysis(kernel)
    fresh = next_id(kernel)
    free = [r for r in facts.free if r.src[0].is_const and size(r) > 1]
    reduced = list(
        dict.fromkeys(
            r
            for node in facts.reductions
            for r in node.src[1:]
            if r.src[0].is_const and r.arg.kind is AxisKind.REDUCE
        )
    )
    lanes = capabilities.vector_bytes // facts.itemsize
    for width in (lanes, lanes // 2):
        if width >= 2:
            for r in free:
                yield from _bound(r, width, AxisKind.VECTOR)
            for r in reduced:
                yield from _lanes_of_reduction(r, width, fresh)
    for r in free:
        for copies in _COPIES:
            yield from _bound(r, copies, AxisKind.UNROLL)
    for r in reduced:
        for copies in (2, 4, 8):
            if size(r) % copies == 0:
                yield from _bound(r, copies, AxisKind.UNROLL)
        if size(r) <= _LONGEST_UNROLLED:
            yield (Bind(r.arg.id, AxisKind.UNROLL),)
    yield from _parts(kernel, free, capabilities, fresh)
    yield from _workgroups(free, capabilities)
    yield from _orders(facts, free, fresh)
    yield from _stages(kernel, capabilities)
    yield from ((keep,) for keep in candidates(kernel))
    if capabilities.streaming_stores and all(a.node.arg is None for a in facts.stores):
        yield (Stream(),)


def _bound(axis: UOp, n: int, kind: AxisKind) -> Iterator[tuple[Opt, ...]]:
    if n == size(axis):
        yield (Bind(axis.arg.id, kind),)
    elif n < size(axis):
        yield (Split(axis.arg.id, n), Bind(axis.arg.id, kind))


def _lanes_of_reduction(axis: UOp, width: int, fresh: int) -> Iterator[tuple[Opt, ...]]:
    """Partial results in lanes; with copies, in several vectors that do not wait for each other."""
    id, n = axis.arg.id, size(axis)
    for copies in (1, 2, 4):
        block = width * copies
        if n < block or (n == block and copies > 1):
            return
        if n == width:
            yield (Bind(id, AxisKind.VECTOR),)
            continue
        opts: list[Opt] = [Tail(id, block)] if n % block else []
        chunk = fresh + len(opts)
        opts.append(Split(id, width))
        grouped = (id,)
        if n - n % block == width:
            opts.append(Bind(id, AxisKind.VECTOR))
            yield tuple(o for o in opts if not isinstance(o, Split))
            continue
        if copies > 1:
            if n - n % block > block:
                opts.append(Split(chunk, copies))
            opts.append(Bind(chunk, AxisKind.UNROLL))
            grouped = (chunk, id)
        opts += [GroupReduce(grouped), Bind(id, AxisKind.VECTOR)]
        yield tuple(opts)


def _parts(
    kernel: UOp, free: Sequence[UOp], capabilities: Capabilities, fresh: int
) -> Iterator[tuple[Opt, ...]]:
    threads = capabilities.threads
    if "THREAD" not in capabilities.parallel_axes or threads < 2:
        return
    if any(r.arg.kind is AxisKind.THREAD for r in axes(kernel)):
        return
    for r in free:
        id, n = r.arg.id, size(r)
        if n <= 16 * threads:
            yield (Bind(id, AxisKind.THREAD),)
        for parts in (threads, 2 * threads, 4 * threads, 8 * threads):
            if parts < n:
                yield (Split(id, -(-n // parts), "short"), Bind(fresh, AxisKind.THREAD))


def _workgroups(free: Sequence[UOp], capabilities: Capabilities) -> Iterator[tuple[Opt, ...]]:
    """Axes, or parts of them, as threads of a workgroup; whole ones as workgroups."""
    if "GROUP" not in capabilities.parallel_axes:
        return
    for r in free:
        if r.arg.kind is AxisKind.LOOP:
            yield (Bind(r.arg.id, AxisKind.GROUP),)
            for threads in _THREADS:
                if threads <= capabilities.group_threads:
                    yield from _bound(r, threads, AxisKind.LOCAL)


def _orders(facts: Analysis, free: Sequence[UOp], fresh: int) -> Iterator[tuple[Opt, ...]]:
    ids = tuple(r.arg.id for r in facts.outputs)
    for r in free:
        for block in _BLOCKS:
            if 2 * block <= size(r):
                yield (Split(r.arg.id, block), Order((fresh, *ids)))
    loops = [r.arg.id for r in facts.outputs if r.arg.kind is AxisKind.LOOP]
    for a, b in zip(loops, loops[1:]):
        swapped = {a: b, b: a}
        yield (Order(tuple(swapped.get(i, i) for i in ids)),)
    for i in loops[2:]:
        yield (Order((i, *(j for j in ids if j != i))),)
    for listed in dict.fromkeys(n.src[1:] for n in facts.reductions):
        ids = tuple(r.arg.id for r in listed)
        for a, b in zip(ids, ids[1:]):
            swapped = {a: b, b: a}
            yield (ReduceOrder(tuple(swapped.get(i, i) for i in ids)),)


def _stages(kernel: UOp, capabilities: Capabilities) -> Iterator[tuple[Opt, ...]]:
    product = contracted_product(kernel)
    if product is None:
        return
    for operand in (0, 1):
        value = product.src[operand]
        if value.op is Op.STAGE:
            continue
        kinds = (AxisKind.REDUCE, AxisKind.UNROLL, AxisKind.VECTOR)
        held = sorted(
            (r for r in value.ranges if r.arg.kind in kinds),
            key=lambda r: (kinds.index(r.arg.kind), r.arg.id),
        )
        if not held or not all(r.src[0].is_const for r in held):
            continue
        if math.prod(size(r) for r in held) * value.dtype.itemsize <= capabilities.local_bytes:
            yield (Stage(operand, tuple(r.arg.id for r in held)),)


def variations(opts: Sequence[Opt]) -> Iterator[tuple[Opt, ...]]:
    """The list with one size changed, or one Opt left out that others do not build on."""
    for position, opt in enumerate(opts):
        before, after = opts[:position], opts[position + 1 :]
        if isinstance(opt, Split):
            for n in (opt.size * 2, opt.size // 2, opt.size + 2, opt.size + 1, opt.size - 1):
                if n >= 2:
                    yield (*before, replace(opt, size=n), *after)
        elif isinstance(opt, Online):
            for n in (opt.size * 2, opt.size // 2):
                if n >= 1:
                    yield (*before, replace(opt, size=n), *after)
        elif not isinstance(opt, Tail):  # axes are numbered by Splits and Tails: those must stay
            yield (*before, *after)
