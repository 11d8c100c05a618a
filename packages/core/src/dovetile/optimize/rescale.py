"""Reductions over one axis that need each other, and the rule that lets them share one loop.

A softmax needs the greatest score before it can add up exponentials, and attention needs both
before it can weigh values: three passes over the keys. But what a pass has added up under a smaller
maximum m is off by a factor that all its terms have in common,

    sum of exp2(s + k * m) * v  =  exp2(k * (m - n)) * sum of exp2(s + k * n) * v,

so a running sum can be corrected whenever the maximum grows (Milakov and Gimelshein, 2018): one
pass is enough, and the scores s are needed one block at a time. Nothing here knows of softmax or
attention: the factor is derived from the terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dovetile.ir.ops import Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp, nodes_of, toposort
from dovetile.optimize.opts import output_axes, replace_axes, rewrite_listed
from dovetile.optimize.visible import visible


@dataclass(frozen=True)
class Closing:
    """Reductions of a kernel that can share one loop.

    kernel: equal to the one asked about, with one axis for all of them, and with factors that do
    not depend on it outside of the sums. top: the running maximum that the sums need. sums: each
    with its k, which is negative, so that corrections shrink what has been added up. Their terms
    vanish where the score, of which the maximum is taken, is minus infinity.

    Where the rows are known there is no maximum, and nothing to correct: but the terms are made of
    sums themselves, which a block of them is computed from.
    """

    kernel: UOp
    axis: UOp
    top: UOp | None
    sums: tuple[tuple[UOp, float], ...]

    @property
    def score(self) -> UOp:
        """What the maximum is taken of."""
        assert self.top is not None
        return self.top.src[0]

    @property
    def inner(self) -> list[UOp]:
        """The sums for each point of the axis, those that the terms are made of."""
        terms = self.top or self.sums[0][0]
        return [n for n in toposort(terms.src[0]) if n.op is Op.REDUCE and self.axis in n.ranges]

    @property
    def rows(self) -> frozenset[UOp]:
        """The output axes that a maximum, or the inner sums, belong to."""
        if self.top is not None:
            return self.top.ranges
        return frozenset().union(*(n.ranges for n in self.inner)) & {*output_axes(self.kernel)}

    def seen(self, rows: frozenset[UOp]) -> tuple[UOp, UOp]:
        """(first, end) of the points of the axis that change anything for some of the rows."""
        if self.top is not None:
            return visible(self.score, self.axis, rows)
        return visible(self.sums[0][0].src[0], self.axis, rows, 0.0)


def closing(kernel: UOp) -> Closing | None:
    """How the reductions of a kernel share a loop; None where they cannot, or there is one only."""
    last = _last_sum(kernel)
    if last is None:
        return None
    kernel = _with_one_axis(kernel, last)
    axis = last.src[1]
    kernel = _without_invariants(kernel, axis)
    last = _last_sum(kernel)
    chain = [n for n in nodes_of(kernel) if n.op is Op.REDUCE and n.src[1:] == (axis,)]
    tops = [n for n in chain if n.arg is Op.MAX]
    sums = [n for n in chain if n.arg is Op.ADD]
    if not tops and chain == [last] == sums:
        found = Closing(kernel, axis, None, ((last, 0.0),))
        return found if found.inner else None
    if len(tops) != 1 or not sums or len(chain) != 1 + len(sums):
        return None
    (top,), found = tops, []
    if not top.ranges <= frozenset(output_axes(kernel)):
        return None
    for node in sums:
        k = _exponent(node.src[0], top)
        # Of the score in the term alone, not in the maximum.
        apart = substitute(node.src[0], {top: top.const_like(0)})
        grows = _exponent(apart, top.src[0])
        if not k or not grows or k > 0 or grows < 0:
            return None
        if any(s in sums for s in toposort(node.src[0])):
            return None
        found.append((node, k))
    return Closing(kernel, axis, top, tuple(found))


def _last_sum(kernel: UOp) -> UOp | None:
    """The sum over one axis that is last: the output is made from it."""
    for node in reversed(nodes_of(kernel)):
        if node.op is Op.REDUCE:
            return node if node.arg is Op.ADD and len(node.src) == 2 else None
    return None


def _with_one_axis(kernel: UOp, last: UOp) -> UOp:
    """Reductions inside the last sum that are over as many elements, and do not depend on its axis,
    get its axis: computed at the same time, their terms meet those of the sum."""
    axis, outputs = last.src[1], frozenset(output_axes(kernel))
    same = {
        n.src[1]
        for n in toposort(last.src[0])
        if n.op is Op.REDUCE
        and len(n.src) == 2
        and n.src[1].src[0] is axis.src[0]
        and n.ranges <= outputs
    }
    same.discard(axis)
    kernel = replace_axes(kernel, dict.fromkeys(same, axis), dict.fromkeys(same, (axis,)))
    # Then the sums inside of their terms, the scores, become the same: they share loops too.
    shared: dict[tuple, tuple[UOp, ...]] = {}
    changes: dict[UOp, UOp] = {}
    for node in nodes_of(kernel):
        if node.op is Op.REDUCE and axis in node.ranges:
            key = (node.ranges, tuple(r.src[0] for r in node.src[1:]))
            ranges = shared.setdefault(key, node.src[1:])
            body = substitute_ranges(node.src[0], dict(zip(node.src[1:], ranges)))
            changes[node] = node.replace(src=(body, *ranges))
    return rewrite_listed(kernel, changes)


def _without_invariants(kernel: UOp, axis: UOp) -> UOp:
    """Sums over the axis with the factors that do not depend on it taken out of them."""
    changes = {}
    for node in nodes_of(kernel):
        if node.op is Op.REDUCE and node.arg is Op.ADD and node.src[1:] == (axis,):
            inner, outer = [], []
            for factor in factors(node.src[0]):
                (inner if axis in factor.ranges else outer).append(factor)
            if inner:
                changes[node] = product([node.replace(src=(product(inner), axis)), *outer])
    return rewrite_listed(kernel, changes)


def unscaled(score: UOp) -> tuple[UOp, float]:
    """(value, scale), scale > 0: the score is the value times the scale."""
    if score.op is Op.MUL:
        for a, b in (score.src, score.src[::-1]):
            if b.constant is not None and 0 < float(b.constant) < math.inf:
                value, scale = unscaled(a)
                return value, scale * float(b.constant)
    if score.op is Op.WHERE:
        condition, *values = score.src
        for i in (0, 1):
            if values[1 - i].constant == -math.inf:
                value, scale = unscaled(values[i])
                values[i] = value
                return UOp(Op.WHERE, score.dtype, (condition, *values)), scale
    return score, 1.0


def terms_of(node: UOp, found: Closing, score: UOp, top: UOp, scale: float) -> UOp:
    """The terms of a sum, with other nodes for the score and the maximum, both to be multiplied
    with the scale: it goes into the exponent, and costs nothing there."""
    changes: dict[UOp, UOp] = {}
    for grown in nodes_of(node.src[0]):
        if grown.op is Op.EXP2:
            apart = substitute(grown.src[0], {found.top: found.top.const_like(0)})
            a, b = _coefficient(apart, found.score), _coefficient(grown.src[0], found.top)
            if a and b and not _rest(grown.src[0], {found.score, found.top}):
                changes[grown] = (score * (a * scale) + top * (b * scale)).alu(Op.EXP2)
    changes[found.score], changes[found.top] = score * scale, top * scale
    return substitute(node.src[0], changes)


def _rest(total: UOp, known: set[UOp]) -> bool:
    """Whether a sum has terms that are no multiples of what is known."""
    if total in known:
        return False
    if total.op is Op.ADD or total.op is Op.MUL:
        return any(_rest(s, known) for s in total.src if total.op is Op.ADD or s.constant is None)
    return True


def product(values: list[UOp]) -> UOp:
    """All of these multiplied."""
    result = values[0]
    for value in values[1:]:
        result = result * value
    return result


def factors(term: UOp) -> list[UOp]:
    """The operands of nested products. Casts between floats are those of the operands: a product
    is not rounded to a narrower type before it is summed up."""
    if term.op is Op.MUL:
        return [*factors(term.src[0]), *factors(term.src[1])]
    if term.op is Op.CAST and term.dtype.is_float and term.src[0].dtype.is_float:
        return [_as(f, term) for f in factors(term.src[0])]
    return [term]


def _as(factor: UOp, cast: UOp) -> UOp:
    if factor.op is Op.CAST and factor.src[0].dtype is cast.dtype:
        return factor.src[0]
    return factor.cast(cast.dtype)


def _exponent(term: UOp, value: UOp) -> float | None:
    """The k such that the term is exp2(k * value) times something without the value, if any."""
    total = 0.0
    for factor in factors(term):
        if value not in set(toposort(factor)):
            continue
        while factor.op is Op.CAST:
            factor = factor.src[0]
        k = _coefficient(factor.src[0], value) if factor.op is Op.EXP2 else None
        if k is None:
            return None
        total += k
    return total


def _coefficient(total: UOp, value: UOp) -> float | None:
    """The k such that the total is k * value plus something without the value, if any."""
    if total is value:
        return 1.0
    if value not in set(toposort(total)):
        return 0.0
    if total.op is Op.ADD:
        left, right = (_coefficient(s, value) for s in total.src)
        return None if left is None or right is None else left + right
    if total.op is Op.MUL:
        for a, b in (total.src, total.src[::-1]):
            constant, k = b.constant, _coefficient(a, value)
            if constant is not None and k is not None:
                return float(constant) * k
    return None
