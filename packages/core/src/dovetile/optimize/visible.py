"""The part of an axis outside of which a value is minus infinity, whatever the other axes are.

A causal mask, a window or a number of valid keys leaves whole blocks of scores at minus infinity;
they change neither a maximum nor a sum of exponentials. What is left follows from the bounds of the
conditions, which may depend on the loops outside.
"""

from __future__ import annotations

import math

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.symbolic import clauses, from_linear, linear_form, negate
from dovetile.ir.symbolic.linear import add
from dovetile.ir.uop import UOp


def visible(value: UOp, axis: UOp, inner: frozenset[UOp]) -> tuple[UOp, UOp]:
    """(first, end) of the points of `axis` where the value may be more than minus infinity for some
    point of the axes `inner`: indices that depend on the other axes."""
    first, end = UOp.const(0), axis.src[0]
    for condition in _needed(value):
        bound = _bound(condition, axis, inner)
        if bound is not None:
            least, limit = bound
            first = first if least is None else first.maximum_with(least)
            end = end if limit is None else end.minimum_with(limit)
    return first, end


def unmasked(value: UOp) -> UOp:
    """The value where all of these conditions hold."""
    if value.op is Op.WHERE:
        for i in (1, 2):
            if value.src[i].constant == -math.inf:
                return unmasked(value.src[3 - i])
    return value


def settled(value: UOp, axis: UOp, inner: frozenset[UOp]) -> tuple[UOp, UOp] | None:
    """(first, end) of the points of `axis` where all of these conditions hold for every point of
    the axes `inner`; None where that is not known."""
    first, end = UOp.const(0), axis.src[0]
    for condition in _needed(value):
        bound = _bound(condition, axis, inner, every=True)
        if bound is None:
            return None
        least, limit = bound
        first = first if least is None else first.maximum_with(least)
        end = end if limit is None else end.minimum_with(limit)
    return first, end


def _needed(value: UOp) -> list[UOp]:
    """Conditions that must all hold for the value to be more than minus infinity."""
    if value.op is Op.WHERE:
        condition, then, otherwise = value.src
        if otherwise.constant == -math.inf:
            return [*clauses(condition), *_needed(then)]
        if then.constant == -math.inf:
            kept = [negate(c) for c in clauses(condition, Op.OR)]
            return [*(c for k in kept for c in clauses(k)), *_needed(otherwise)]
    if value.op is Op.ADD:
        return [c for s in value.src for c in _needed(s)]
    if value.op is Op.CAST:
        return _needed(value.src[0])
    if value.op is Op.MUL:
        for a, b in (value.src, value.src[::-1]):
            constant = b.constant
            if constant is not None and constant > 0:
                return _needed(a)
    return []


def _bound(
    condition: UOp, axis: UOp, inner: frozenset[UOp], every: bool = False
) -> tuple[UOp | None, UOp | None] | None:
    """(least, limit) of `axis` by a comparison of indices, at the best point of `inner`, or at
    every one."""
    negated = condition.op is Op.XOR and condition.src[1].constant is True
    node = condition.src[0] if negated else condition
    if node.op is not Op.LT or node.src[0].dtype is not dtypes.index:
        return None
    # a < b is a - b < 0; not a < b is b - a - 1 < 0.
    left, right = node.src[::-1] if negated else node.src
    terms, constant = add(linear_form(left), linear_form(right), -1)
    constant -= negated
    factor = terms.get(axis, 0)
    rest = {}
    for term, a in terms.items():
        if term in inner:
            step = a * (int(term.src[0].maximum) - 1)
            constant += max(0, step) if every else min(0, step)
        elif term is not axis:
            if term.ranges & inner or axis in term.ranges:
                return None
            rest[term] = a
    if factor == 0:
        return None
    # factor * axis + rest + constant < 0
    if factor > 0:
        return None, from_linear(rest, constant, axis) // factor * -1
    return from_linear(rest, constant, axis) // -factor + 1, None
