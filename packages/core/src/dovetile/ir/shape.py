"""Shapes of tensor-level values, derived from the operation and its sources."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dovetile.errors import GraphError
from dovetile.ir.ops import EFFECTS, ELEMENTWISE, Op
from dovetile.ir.uop import UOp


def shape_of(node: UOp) -> tuple[int, ...] | None:
    """The shape, () for scalars and kernel-level values, None for effects."""
    op, src, arg = node.op, node.src, node.arg
    if op in ELEMENTWISE:
        shape = src[0].shape
        for s in src[1:]:
            if s.shape != shape:
                raise GraphError(f"[{op.name}] operand shapes differ: {[s.shape for s in src]}")
        return shape
    if op is Op.BUFFER:
        return (arg.size,)
    if op is Op.IOTA:
        return (arg,)
    if op is Op.RESHAPE:
        if math.prod(arg) != math.prod(src[0].shape):
            raise GraphError(f"[RESHAPE] {src[0].shape} has not as many elements as {arg}")
        return arg
    if op is Op.PERMUTE:
        if sorted(arg) != list(range(len(src[0].shape))):
            raise GraphError(f"[PERMUTE] {arg} does not order the axes of {src[0].shape}")
        return tuple(src[0].shape[i] for i in arg)
    if op is Op.EXPAND:
        return (*src[0].shape, *arg)
    if op is Op.PAD:
        return tuple(b + n + a for n, (b, a) in zip(src[0].shape, arg, strict=True))
    if op is Op.SHRINK:
        return tuple(stop - start for start, stop in arg)
    if op in (Op.FLIP, Op.COPY, Op.AFTER):
        return src[0].shape
    if op is Op.STAGE:
        return src[0].shape
    if op is Op.REDUCE:
        if isinstance(arg, tuple):
            return src[0].shape[: len(src[0].shape) - arg[1]]
        return ()
    if op is Op.INDEX:
        return (*src[1].shape, *src[0].shape[len(src) - 1 :])
    if op in EFFECTS:
        return None
    return ()


def groups_of_equal_extent(
    new: tuple[int, ...], old: tuple[int, ...]
) -> Iterator[tuple[slice, slice]]:
    """The axes of two shapes of as many elements, from the first on, in the smallest groups that
    hold as many elements in both: such groups are reshaped into each other one by one."""
    i = j = 0
    while i < len(new) or j < len(old):
        start_new, start_old = i, j
        extent_new = new[i] if i < len(new) else 1
        extent_old = old[j] if j < len(old) else 1
        i, j = min(i + 1, len(new)), min(j + 1, len(old))
        while extent_new != extent_old:
            if (extent_new < extent_old and i < len(new)) or j >= len(old):
                extent_new *= new[i]
                i += 1
            else:
                extent_old *= old[j]
                j += 1
        yield slice(start_new, i), slice(start_old, j)
