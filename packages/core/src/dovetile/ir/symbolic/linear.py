"""Index expressions as linear sums: coefficient * term + ... + constant.

Terms are whatever is not itself a sum or a constant multiple: RANGEs, VARIABLEs, divisions,
remainders, products of non-constants, loads. The canonical form of a sum has its terms in the order
of `compare` and the constant last, so that equal sums are the same node.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp

Terms = dict[UOp, int]
Linear = tuple[Terms, int]

# A sum of more terms is taken as one opaque term: that bounds the work per node, and no index
# expression comes near it.
_MOST_TERMS = 64
_SUMS = (Op.ADD, Op.MUL)


def linear_form(node: UOp) -> Linear:
    """({term: coefficient}, constant) whose sum is the index expression `node`.

    No coefficient is 0; what is not linear is a term of its own. Remembered per node, and shared:
    copy the dictionary before changing it.
    """
    if node.op not in _SUMS or node.dtype is not dtypes.index:
        constant = node.constant
        return ({node: 1}, 0) if constant is None or node.dtype.lanes > 1 else ({}, int(constant))
    try:
        form = node._linear
    except AttributeError:
        form = _compute(node)
    return ({node: 1}, 0) if form is None else form


def _compute(node: UOp) -> Linear | None:
    stack = [node]
    while stack:
        current = stack[-1]
        waiting = [s for s in current.src if s.op in _SUMS and not hasattr(s, "_linear")]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        if not hasattr(current, "_linear"):
            object.__setattr__(current, "_linear", _combine(current))
    return node._linear


def _combine(node: UOp) -> Linear | None:
    """The form from the forms of the sources. None: the node is its own only term (kept that way,
    because a dictionary that names the node would keep it alive)."""
    (left, constant), (right, other) = linear_form(node.src[0]), linear_form(node.src[1])
    if node.op is Op.MUL:
        if left and right:
            return None
        factor = other if left else constant
        return scale((left, constant) if left else (right, other), factor)
    terms, constant = add((left, constant), (right, other))
    return None if len(terms) > _MOST_TERMS else (terms, constant)


def scale(form: Linear, factor: int) -> Linear:
    """form * factor"""
    if factor == 0:
        return ({}, 0)
    return ({t: c * factor for t, c in form[0].items()}, form[1] * factor)


def add(a: Linear, b: Linear, factor: int = 1) -> Linear:
    """a + b * factor"""
    terms = dict(a[0])
    for term, coefficient in b[0].items():
        total = terms.get(term, 0) + coefficient * factor
        if total:
            terms[term] = total
        else:
            terms.pop(term, None)
    return (terms, a[1] + b[1] * factor)


def linear_bounds(terms: Terms, constant: int = 0) -> tuple[int, int]:
    """Inclusive bounds of the sum."""
    low = high = constant
    for term, coefficient in terms.items():
        least, greatest = term.bounds
        if coefficient > 0:
            low, high = low + coefficient * least, high + coefficient * greatest
        else:
            low, high = low + coefficient * greatest, high + coefficient * least
    return int(low), int(high)


def common_divisor(coefficients: Iterable[int]) -> int:
    """The greatest common divisor; 0 for none."""
    return math.gcd(*coefficients)


def from_linear(terms: Terms, constant: int, like: UOp) -> UOp:
    """The canonical node of a sum. `like` gives the shape of a sum without terms."""
    total: UOp | None = None
    for term in in_order(terms):
        coefficient = terms[term]
        part = term if coefficient == 1 else term * coefficient
        total = part if total is None else total + part
    if total is None:
        return like.const_like(constant)
    return total + constant if constant else total


def compare(a: UOp, b: UOp) -> int:
    """A total order of nodes: by operation, argument, then sources.

    It depends on nothing but the graph (not on addresses or hashes), so two processes, and two
    graphs that differ only in the numbering of their loops, order terms alike.
    """
    while a is not b:
        if a.op is not b.op:
            return -1 if a.op._value_ < b.op._value_ else 1
        if a.arg != b.arg:
            return -1 if _argument_key(a) < _argument_key(b) else 1
        if a.dtype is not b.dtype:
            return -1 if repr(a.dtype) < repr(b.dtype) else 1
        if len(a.src) != len(b.src):
            return -1 if len(a.src) < len(b.src) else 1
        pairs = ((x, y) for x, y in zip(a.src, b.src) if x is not y)
        a, b = next(pairs, (a, a))
    return 0


def _argument_key(node: UOp) -> Any:
    if node.op is Op.RANGE:
        return (node.arg.id, node.arg.kind.name)
    if node.op in (Op.CONST, Op.VARIABLE, Op.IOTA):
        return node.arg
    return repr(node.arg)


order_key = functools.cmp_to_key(compare)


def in_order(nodes: Iterable[UOp]) -> list[UOp]:
    """The nodes in the order of `compare`."""
    found = list(nodes)
    if len(found) > 1:
        found.sort(key=order_key)
    return found
