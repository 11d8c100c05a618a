"""Loops of a freshly built kernel made canonical.

An axis that is only used as quotient and remainder by one number becomes two axes; two axes that
every access treats as one become one; then loops and buffers are numbered by appearance, so that
equal kernels are equal nodes, in this process and in any other.
"""

from __future__ import annotations

from functools import lru_cache

from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.rewrite import rewrite
from dovetile.ir.symbolic import linear_form, simplify_index
from dovetile.ir.uop import UOp, nodes_of
from dovetile.optimize.opts import replace_axes

# Shorter inner axes than this are left alone: a vector covers several of their blocks.
_LEAST_FACTOR = 16


def canonical(kernel: UOp) -> tuple[UOp, tuple[UOp, ...]]:
    """(the canonical kernel, the BUFFERs that its slots stand for)."""
    kernel, buffers = number(kernel)
    found, slots = _canonical(kernel)
    return found, tuple([buffers[slot] for slot in slots])


@lru_cache(maxsize=2048)
def _canonical(kernel: UOp) -> tuple[UOp, tuple[int, ...]]:
    """(the canonical form of a numbered kernel, which of its slots the slots of that stand for).

    Remembered: the layers of a network, and its parameters' updates, are mostly the same kernels.
    """
    kernel = rewrite(kernel, simplify_index)
    kernel = split_axes(kernel)
    kernel = merge_axes(kernel)
    kernel, buffers = number(kernel)
    return kernel, tuple([buffer.arg.slot for buffer in buffers])


def split_axes(kernel: UOp) -> UOp:
    """Splits axes that appear in quotients and remainders, until none can be."""
    for _ in range(16):
        found = _divided(kernel)
        if found is None:
            return kernel
        old, factor = found
        kind = old.arg.kind
        outer, inner = UOp.range(old.src[0].arg // factor, kind), UOp.range(factor, kind)
        kernel = replace_axes(kernel, {old: outer * factor + inner}, {old: (outer, inner)})
        kernel = rewrite(kernel, simplify_index)
    return kernel


def _divided(kernel: UOp) -> tuple[UOp, int] | None:
    for node in nodes_of(kernel):
        if node.op not in (Op.FLOORDIV, Op.FLOORMOD) or not node.src[1].is_const:
            continue
        terms, _ = linear_form(node.src[0])
        divisor = node.src[1].arg
        if divisor <= 0:
            continue
        for term, coefficient in terms.items():
            if term.op is not Op.RANGE or not term.src[0].is_const or coefficient <= 0:
                continue
            if divisor % coefficient:
                continue
            factor, n = divisor // coefficient, term.src[0].arg
            if _LEAST_FACTOR <= factor < n and n % factor == 0:
                return term, factor
    return None


def merge_axes(kernel: UOp) -> UOp:
    """Merges neighbouring axes (outer, inner) that every index uses as outer * size + inner."""
    changed = True
    while changed:
        changed = False
        forms = _uses(kernel)
        for ranges in _lists(kernel):
            for outer, inner in zip(ranges, ranges[1:]):
                if _mergeable(outer, inner, forms, kernel):
                    n, m = outer.src[0].arg, inner.src[0].arg
                    whole = UOp.range(n * m, outer.arg.kind)
                    # Forms are linear in both, so outer := 0 and inner := whole says the same.
                    values = {outer: UOp.const(0), inner: whole}
                    kernel = replace_axes(kernel, values, {outer: (), inner: (whole,)})
                    kernel = rewrite(kernel, simplify_index)
                    changed = True
                    break
            if changed:
                break
    return kernel


def _lists(kernel: UOp) -> list[tuple[UOp, ...]]:
    return [n.src[1:] for n in nodes_of(kernel) if n.op in (Op.END, Op.REDUCE) and len(n.src) > 2]


def _uses(kernel: UOp) -> list[dict[UOp, int]]:
    """Linear terms of everything that consumes index arithmetic."""
    forms = []
    for node in nodes_of(kernel):
        for position, s in enumerate(node.src):
            if s.dtype.kind != "i" or s.dtype.name != "index" or not s.ranges:
                continue
            listed = node.op in (Op.END, Op.REDUCE, Op.STAGE) and position > 0
            if listed or (node.op in (Op.ADD, Op.MUL) and node.dtype.name == "index"):
                continue
            forms.append(linear_form(s)[0])
    return forms


def _mergeable(outer: UOp, inner: UOp, forms: list[dict[UOp, int]], kernel: UOp) -> bool:
    constant = outer.src[0].is_const and inner.src[0].is_const
    if outer.arg.kind is not inner.arg.kind or not constant:
        return False
    size = inner.src[0].arg
    for terms in forms:
        if terms.get(outer, 0) != size * terms.get(inner, 0):
            return False
    pair = {outer, inner}
    for ranges in _lists_of_any(kernel):
        present = pair.intersection(ranges)
        if present and (len(present) == 1 or ranges.index(inner) != ranges.index(outer) + 1):
            return False
    # A reduction that depends on one of the two only would be computed too often.
    return all(
        len(pair & n.ranges) != 1
        for n in nodes_of(kernel)
        if n.op in (Op.REDUCE, Op.STORE, Op.LOAD)
    )


def _lists_of_any(kernel: UOp) -> list[tuple[UOp, ...]]:
    return [n.src[1:] for n in nodes_of(kernel) if n.op in (Op.END, Op.REDUCE)]


def number(kernel: UOp) -> tuple[UOp, tuple[UOp, ...]]:
    """Loops and buffers numbered by appearance; buffers lose their device."""
    nodes = nodes_of(kernel)
    order = list(kernel.src[0].src[1:]) if kernel.src[0].op is Op.END else []
    order += [r for n in nodes if n.op in (Op.REDUCE, Op.END) for r in n.src[1:]]
    ranges = {r: UOp.range(r.src[0], r.arg.kind, i) for i, r in enumerate(dict.fromkeys(order))}
    buffers = [n for n in nodes if n.op is Op.BUFFER and n.arg.space is AddressSpace.GLOBAL]
    values = dict(ranges)
    for slot, b in enumerate(buffers):
        values[b] = UOp.buffer(b.arg.size, b.dtype, slot=slot)
    kernel = replace_axes(kernel, values, {r: (new,) for r, new in ranges.items()})
    return kernel, tuple(buffers)
