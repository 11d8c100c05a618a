"""The algebra of movement ops: neighbours of one kind merge, moves that move nothing vanish, and a
move that can be made on a smaller value is.

Moves are not carried past arithmetic here: whether that pays is the scheduler's decision.
"""

from __future__ import annotations

import math

from dovetile.ir.ops import MOVEMENT, Op
from dovetile.ir.pattern import Pat, RuleSet
from dovetile.ir.uop import UOp

Shape = tuple[int, ...]


def _identity(node: UOp, x: UOp) -> UOp | None:
    """A move that changes nothing."""
    op, arg = node.op, node.arg
    if op is Op.RESHAPE:
        same = arg == x.shape
    elif op is Op.PERMUTE:
        same = all(i == axis for i, axis in enumerate(arg))
    elif op is Op.PAD:
        same = all(amount == (0, 0) for amount in arg)
    elif op is Op.SHRINK:
        same = all(limits == (0, n) for limits, n in zip(arg, x.shape))
    else:
        same = not arg
    return x if same else None


def _of_number(node: UOp, x: UOp) -> UOp | None:
    """A number everywhere is one however it is moved (except for the zeros that PAD adds)."""
    number = x.constant
    if number is None or node.op is Op.EXPAND:
        return None
    if node.op is Op.PAD and (number != 0 or math.copysign(1.0, number) < 0):
        return None
    scalar = UOp.const(number, node.dtype)
    return scalar.expand(node.shape) if node.shape else scalar


def _pad_of_pad(x: UOp, outer: UOp, inner: UOp) -> UOp:
    return x.pad(tuple((a + c, b + d) for (a, b), (c, d) in zip(inner.arg, outer.arg)))


def _shrink_of_shrink(x: UOp, outer: UOp, inner: UOp) -> UOp:
    return x.shrink(tuple((a + c, a + d) for (a, _), (c, d) in zip(inner.arg, outer.arg)))


def _flip_of_flip(x: UOp, outer: UOp, inner: UOp) -> UOp:
    return x.flip(tuple(sorted(set(outer.arg) ^ set(inner.arg))))


def _shrink_of_pad(x: UOp, outer: UOp, inner: UOp) -> UOp:
    """Padding that is cut away again is not made, and what is cut off is not padded."""
    cut, around = [], []
    for n, (before, _), (start, stop) in zip(x.shape, inner.arg, outer.arg):
        low, high = start - before, stop - before  # the region kept, in positions of x
        first, last = min(max(low, 0), n), min(max(high, 0), n)
        cut.append((first, last))
        around.append((first - low, high - last))
    if any(a == b for a, b in cut):  # nothing of x is left: only zeros
        return _zeros(outer)
    return x.shrink(tuple(cut)).pad(tuple(around))


def _zeros(like: UOp) -> UOp:
    return UOp.const(0, like.dtype).expand(like.shape)


def _permute_units(x: UOp, node: UOp) -> UOp | None:
    """A permutation that only carries axes of size 1 about is a reshape."""
    longer = [axis for axis in node.arg if x.shape[axis] != 1]
    return x.reshape(node.shape) if longer == sorted(longer) else None


# -- EXPAND: what moves only the axes it added, or only the value's own ----------------------------


def _expand_of_units(x: UOp, node: UOp) -> UOp | None:
    # A number keeps its EXPAND, whatever the shape: that is its one form.
    if x.op is Op.CONST or any(n != 1 for n in node.arg):
        return None
    return x.reshape(node.shape)


def _reshape_of_expand(x: UOp, outer: UOp) -> UOp | None:
    """A reshape that keeps the border between x's axes and the added ones."""
    if 0 in outer.arg:
        return None
    count, product = 0, 1
    while product < x.size:
        product *= outer.arg[count]
        count += 1
    if product != x.size:
        return None
    return x.reshape(outer.arg[:count]).expand(outer.arg[count:])


def _permute_of_expand(x: UOp, outer: UOp, inner: UOp) -> UOp | None:
    """A permutation that leaves x's axes in front of the added ones."""
    count = len(x.shape)
    front, back = outer.arg[:count], outer.arg[count:]
    if any(axis >= count for axis in front):
        return None
    return x.permute(front).expand(tuple(inner.arg[axis - count] for axis in back))


def _shrink_of_expand(x: UOp, outer: UOp) -> UOp:
    count = len(x.shape)
    sizes = tuple(stop - start for start, stop in outer.arg[count:])
    return x.shrink(outer.arg[:count]).expand(sizes)


def _flip_of_expand(x: UOp, outer: UOp, inner: UOp) -> UOp:
    return x.flip(tuple(axis for axis in outer.arg if axis < len(x.shape))).expand(inner.arg)


def _flip_units(x: UOp, node: UOp) -> UOp | None:
    longer = tuple(axis for axis in node.arg if x.shape[axis] > 1)
    return x.flip(longer) if longer != node.arg else None


x = Pat.var("x")


def _pair(outer: Op, inner: Op) -> Pat:
    return Pat(outer, (Pat(inner, (x,), name="inner"),), name="outer")


simplify_movement = RuleSet(
    [
        (Pat(MOVEMENT, (x,), name="node"), _identity),
        (Pat(MOVEMENT, (x,), name="node"), _of_number),
        (_pair(Op.RESHAPE, Op.RESHAPE), lambda x, outer: x.reshape(outer.arg)),
        (
            _pair(Op.PERMUTE, Op.PERMUTE),
            lambda x, outer, inner: x.permute(tuple(inner.arg[i] for i in outer.arg)),
        ),
        (_pair(Op.EXPAND, Op.EXPAND), lambda x, outer, inner: x.expand(inner.arg + outer.arg)),
        (_pair(Op.PAD, Op.PAD), _pad_of_pad),
        (_pair(Op.SHRINK, Op.SHRINK), _shrink_of_shrink),
        (_pair(Op.FLIP, Op.FLIP), _flip_of_flip),
        (_pair(Op.SHRINK, Op.PAD), _shrink_of_pad),
        (Pat(Op.PERMUTE, (x,), name="node"), _permute_units),
        (Pat(Op.FLIP, (x,), name="node"), _flip_units),
        (Pat(Op.EXPAND, (x,), name="node"), _expand_of_units),
        (_pair(Op.RESHAPE, Op.EXPAND), _reshape_of_expand),
        (_pair(Op.PERMUTE, Op.EXPAND), _permute_of_expand),
        (_pair(Op.SHRINK, Op.EXPAND), _shrink_of_expand),
        (_pair(Op.FLIP, Op.EXPAND), _flip_of_expand),
    ],
    "simplify_movement",
    remember=True,
)
