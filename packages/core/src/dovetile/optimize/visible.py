"""The part of an axis outside of which a value is minus infinity, or zero, whatever the other axes
are.

A causal mask, a window or a number of valid keys leaves whole blocks of scores at minus infinity;
they change neither a maximum nor a sum of exponentials. The exponentials, and the gradients that
they are factors of, are zero there and change no sum. What is left follows from the bounds of the
conditions, which may depend on the loops outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.symbolic import clauses, from_linear, linear_form, negate
from dovetile.ir.symbolic.linear import add
from dovetile.ir.uop import UOp, nodes_of

Conditions = tuple[UOp, ...]
_OUTSIDE = (0.0, -math.inf)


def visible(
    value: UOp, axis: UOp, inner: frozenset[UOp], outside: float = -math.inf
) -> tuple[UOp, UOp]:
    """(first, end) of the points of `axis` where the value may be more than `outside`, minus
    infinity or zero, for some point of the axes `inner`: indices that depend on the other axes."""
    return _interval(conditions(value, outside), axis, inner)


def conditions(value: UOp, outside: float) -> Conditions:
    """What must all hold where the value is anything but `outside`."""
    known: dict[UOp, dict[float, Conditions]] = {}
    for node in nodes_of(value):
        # Nothing is known of most nodes, and then nothing of their users.
        if node.op in (Op.WHERE, Op.LOAD) or any(known[s] for s in node.src):
            found = {c: tuple(dict.fromkeys(_needed(node, c, known))) for c in _OUTSIDE}
            known[node] = {c: needed for c, needed in found.items() if needed}
        else:
            known[node] = {}
    return known[value].get(outside, ())


def _needed(node: UOp, outside: float, known: dict[UOp, dict[float, Conditions]]) -> Iterable[UOp]:
    def of(source: UOp, what: float = outside) -> Conditions:
        return known[source].get(what, ())

    if node.op is Op.WHERE:
        condition, then, otherwise = node.src
        if otherwise.constant == outside:
            return (*clauses(condition), *of(then))
        if then.constant == outside:
            kept = [negate(c) for c in clauses(condition, Op.OR)]
            return (*(c for k in kept for c in clauses(k)), *of(otherwise))
    if node.op is Op.LOAD and node.arg == "held" and node.src[1].constant == outside:
        return clauses(node.src[2])
    if node.op is Op.CAST:
        return of(node.src[0])
    if outside == 0:
        return _zero(node, of)
    if node.op is Op.ADD:
        return (*of(node.src[0]), *of(node.src[1]))
    if node.op is Op.MUL:
        for a, b in (node.src, node.src[::-1]):
            if b.constant is not None and b.constant > 0:
                return of(a)
    return ()


def _zero(node: UOp, of: Callable[..., Conditions]) -> Iterable[UOp]:
    """Where a value must differ from zero: not where a factor is, nor where all terms are."""
    if node.op is Op.MUL:
        return (*of(node.src[0]), *of(node.src[1]))
    if node.op is Op.DIV:
        return of(node.src[0])
    if node.op is Op.ADD:
        return (c for c in of(node.src[0]) if c in of(node.src[1]))
    if node.op is Op.EXP2:
        found = of(node.src[0], -math.inf)
        return found if _finite_somewhere(node.src[0], found, of) else ()
    return ()


def _finite_somewhere(value: UOp, needed: Conditions, of: Callable[..., Conditions]) -> bool:
    """Whether what is added to a masked value may be its maximum, over the axes that it does not
    depend on: it is minus infinity for a row that is masked altogether, and the sum no number."""
    while value.op is Op.CAST or (value.op is Op.MUL and value.src[1].is_const):
        value = value.src[0]
    if value.op is not Op.ADD:
        return True
    others = [s.ranges for s in value.src if not of(s, -math.inf)]
    axes = frozenset().union(*(c.ranges for c in needed)).difference(*others)
    return bool(axes) and all(_never_empty(needed, r) for r in axes)


def _never_empty(needed: Conditions, axis: UOp) -> bool:
    """Whether all conditions hold somewhere along an axis, wherever on the others."""
    first, end = _interval(needed, axis, frozenset())
    bounded = all(axis in c.ranges and _bound(c, axis, frozenset()) for c in needed)
    return bounded and (end + first * -1).minimum >= 1


def _interval(needed: Conditions, axis: UOp, inner: frozenset[UOp]) -> tuple[UOp, UOp]:
    first, end = UOp.const(0), axis.src[0]
    for condition in needed:
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
    for condition in conditions(value, -math.inf):
        bound = _bound(condition, axis, inner, every=True)
        if bound is None:
            return None
        least, limit = bound
        first = first if least is None else first.maximum_with(least)
        end = end if limit is None else end.minimum_with(limit)
    return first, end


def compares(condition: UOp) -> bool:
    """Whether a condition compares indices, and so follows from the loops alone."""
    return _comparison(condition) is not None


def _comparison(condition: UOp) -> tuple[UOp, bool] | None:
    """(a < b, whether it is negated) for a condition that compares indices."""
    node, negated = condition, False
    while node.op is Op.XOR and node.src[1].constant is True:
        node, negated = node.src[0], not negated
    indices = node.op is Op.LT and node.src[0].dtype is dtypes.index
    return (node, negated) if indices and not any(n.op is Op.LOAD for n in nodes_of(node)) else None


def possible(condition: UOp, inner: frozenset[UOp]) -> UOp | None:
    """1 where a comparison of indices holds for some point of the axes `inner`, else 0; None where
    that is not known."""
    form = _negative(condition, None, inner)
    if form is None:
        return None
    _, rest = form
    return (rest * -1).maximum_with(0).minimum_with(1)


def _bound(
    condition: UOp, axis: UOp, inner: frozenset[UOp], every: bool = False
) -> tuple[UOp | None, UOp | None] | None:
    """(least, limit) of `axis` by a comparison of indices, at the best point of `inner`, or at
    every one."""
    form = _negative(condition, axis, inner, every)
    if form is None:
        return None
    factor, rest = form
    if factor == 0:
        return None
    # factor * axis + rest < 0
    if factor > 0:
        return None, rest // factor * -1
    return rest // -factor + 1, None


def _negative(
    condition: UOp, axis: UOp | None, inner: frozenset[UOp], every: bool = False
) -> tuple[int, UOp] | None:
    """(factor, rest) of a condition that says factor * axis + rest < 0, with the least rest for all
    points of `inner`, or the greatest."""
    found = _comparison(condition)
    if found is None:
        return None
    node, negated = found
    # a < b is a - b < 0; not a < b is b - a - 1 < 0.
    left, right = node.src[::-1] if negated else node.src
    terms, constant = add(linear_form(left), linear_form(right), -1)
    constant -= negated
    rest = {}
    for term, a in terms.items():
        if term in inner:
            step = a * (int(term.src[0].maximum) - 1)
            constant += max(0, step) if every else min(0, step)
        elif term is not axis:
            if term.ranges & inner or axis in term.ranges:
                return None
            rest[term] = a
    return terms.get(axis, 0) if axis else 0, from_linear(rest, constant, axis or UOp.const(0))
