"""The gradient rule of every operation: (node, gradient) -> gradients by its sources, in order.

A rule may answer None for a source that no gradient flows to. All answers are ordinary nodes, so
they can be differentiated again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dovetile import dtypes
from dovetile.gradient.index import index_gradient
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.nodes import constant, inverse

Gradients = tuple["UOp | None", ...]
Rule = Callable[[UOp, UOp], Gradients]

RULES: dict[Op, Rule] = {}


def rule(*ops: Op) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for op in ops:
            RULES[op] = function
        return function

    return register


def zeros(like: UOp) -> UOp:
    return constant(0.0, like.dtype, like.shape)


def sum_last(node: UOp, count: int) -> UOp:
    """The sum over the last axes; half precision adds up in float32."""
    if not count:
        return node
    if node.dtype.itemsize < 4:
        return _unrounded(node).reduce(Op.ADD, count).cast(node.dtype)
    return node.reduce(Op.ADD, count)


def _unrounded(node: UOp) -> UOp:
    """float32 numbers: those that the node's were before they were rounded, where they were."""
    source, moves = node, []
    while source.op in (Op.PERMUTE, Op.RESHAPE):
        moves.append(source)
        source = source.src[0]
    if source.op is not Op.CAST or source.src[0].dtype is not dtypes.float32:
        return node.cast(dtypes.float32)
    wide = source.src[0]
    for move in reversed(moves):
        wide = move.replace(dtype=wide.dtype, src=(wide,))
    return wide


# -- elementwise ---------------------------------------------------------------------------------


@rule(Op.ADD)
def _add(node: UOp, g: UOp) -> Gradients:
    return (g, g)


@rule(Op.MUL)
def _multiply(node: UOp, g: UOp) -> Gradients:
    x, y = node.src
    return (g * y, g * x)


@rule(Op.DIV)
def _divide(node: UOp, g: UOp) -> Gradients:
    by_x = g / node.src[1]
    return (by_x, by_x * node * -1)


@rule(Op.MULACC)
def _multiply_add(node: UOp, g: UOp) -> Gradients:
    x, y, _ = node.src
    return (g * y, g * x, g)


@rule(Op.MAX, Op.MIN)
def _extreme_of_two(node: UOp, g: UOp) -> Gradients:
    x, y = node.src
    half = x.eq(y).where(g * 0.5, zeros(g))
    x_wins = y < x if node.op is Op.MAX else x < y
    y_wins = x < y if node.op is Op.MAX else y < x
    return (x_wins.where(g, half), y_wins.where(g, half))


@rule(Op.WHERE)
def _choose(node: UOp, g: UOp) -> Gradients:
    condition = node.src[0]
    return (None, condition.where(g, zeros(g)), condition.where(zeros(g), g))


@rule(Op.CAST)
def _cast(node: UOp, g: UOp) -> Gradients:
    return (g.cast(node.src[0].dtype),)


@rule(Op.EXP2)
def _exp2(node: UOp, g: UOp) -> Gradients:
    return (g * node * math.log(2),)


@rule(Op.LOG2)
def _log2(node: UOp, g: UOp) -> Gradients:
    return (g * (1 / math.log(2)) / node.src[0],)


@rule(Op.SIN)
def _sin(node: UOp, g: UOp) -> Gradients:
    from dovetile.tensor.functions import cosine

    return (g * cosine(node.src[0]),)


@rule(Op.SQRT)
def _sqrt(node: UOp, g: UOp) -> Gradients:
    return (g * 0.5 / node,)


@rule(Op.TRUNC, Op.BITCAST)
def _no_gradient(node: UOp, g: UOp) -> Gradients:
    return (None,)


# -- movement ------------------------------------------------------------------------------------


@rule(Op.RESHAPE)
def _reshape(node: UOp, g: UOp) -> Gradients:
    return (g.reshape(node.src[0].shape),)


@rule(Op.PERMUTE)
def _permute(node: UOp, g: UOp) -> Gradients:
    return (g.permute(inverse(node.arg)),)


@rule(Op.EXPAND)
def _expand(node: UOp, g: UOp) -> Gradients:
    return (sum_last(g, len(node.arg)),)


@rule(Op.PAD)
def _pad(node: UOp, g: UOp) -> Gradients:
    sizes = node.src[0].shape
    return (g.shrink(tuple((before, before + n) for (before, _), n in zip(node.arg, sizes))),)


@rule(Op.SHRINK)
def _shrink(node: UOp, g: UOp) -> Gradients:
    sizes = node.src[0].shape
    return (g.pad(tuple((start, n - stop) for (start, stop), n in zip(node.arg, sizes))),)


@rule(Op.FLIP)
def _flip(node: UOp, g: UOp) -> Gradients:
    return (g.flip(node.arg),)


@rule(Op.STAGE)
def _stage(node: UOp, g: UOp) -> Gradients:
    return (g,)


@rule(Op.COPY)
def _copy(node: UOp, g: UOp) -> Gradients:
    device = node.src[0].device
    return (g if device is None else UOp(Op.COPY, g.dtype, (g,), device),)


# -- reductions and indexing ---------------------------------------------------------------------


@rule(Op.REDUCE)
def _reduce(node: UOp, g: UOp) -> Gradients:
    op, count = node.arg
    x = node.src[0]
    sizes = x.shape[len(x.shape) - count :]
    spread = g.expand(sizes)
    if op is Op.ADD:
        return (spread,)
    if op is Op.MUL:
        return (spread * _product_of_others(x, count),)
    # Not the result itself: that may come from another kernel, where x was rounded otherwise, and
    # then no element equals it. The scheduler holds what is compared with its own extreme.
    turned = x * -1
    extreme = turned.reduce(Op.MIN if op is Op.MAX else Op.MAX, count)
    best = turned.eq(extreme.expand(sizes)).cast(g.dtype)
    share = g / sum_last(best, count)
    return (best * share.expand(sizes),)


def _product_of_others(x: UOp, count: int) -> UOp:
    """For each element the product of all others, right also where some are 0."""
    sizes = x.shape[len(x.shape) - count :]
    zero = x.eq(0)
    safe = zero.where(constant(1.0, x.dtype, x.shape), x)
    product = safe.reduce(Op.MUL, count).expand(sizes)
    number = zero.cast(x.dtype).reduce(Op.ADD, count).expand(sizes)
    with_zero = zero.where(number.eq(1).where(product, zeros(x)), zeros(x))
    return number.eq(0).where(product / safe, with_zero)


@rule(Op.INDEX)
def _index(node: UOp, g: UOp) -> Gradients:
    return (index_gradient(node, g), *(None for _ in node.src[1:]))
