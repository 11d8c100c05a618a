"""Helpers that build tensor-level nodes: constants, broadcasting, reductions over any axes.

In the IR, EXPAND appends axes and REDUCE removes the last ones. These functions put the PERMUTEs
around them, as few as possible, so that the rest of this package can name axes freely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.errors import DTypeError, IndexOutOfRangeError, ShapeError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp

Shape = tuple[int, ...]


@lru_cache(maxsize=4096, typed=True)
def _cached_constant(value: Scalar, dtype: DType, shape: Shape) -> UOp:
    return UOp.const(value, dtype).expand(shape)


def constant(value: Scalar, dtype: DType, shape: Shape = ()) -> UOp:
    """`value` in every element of `shape`."""
    if value == 0 and isinstance(value, float):  # -0.0 equals 0.0 as a key of the cache
        return UOp.const(value, dtype).expand(shape)
    return _cached_constant(value, dtype, shape)


def iota(size: int) -> UOp:
    """0, 1, ..., size - 1 with dtype `index`."""
    return UOp(Op.IOTA, dtypes.index, (), size)


def arrange(node: UOp, positions: Sequence[int], shape: Shape) -> UOp:
    """`node` in `shape`: its axis i becomes axis positions[i]; it is repeated along the others."""
    others = [axis for axis in range(len(shape)) if axis not in positions]
    node = node.expand(tuple(shape[axis] for axis in others))
    now = [*positions, *others]
    order = [0] * len(shape)
    for place, axis in enumerate(now):
        order[axis] = place
    return node.permute(tuple(order))


def broadcast(node: UOp, shape: Shape) -> UOp:
    """`node` repeated to `shape` by NumPy's rules, which the caller has checked."""
    old = node.shape
    if old == shape:
        return node
    if node.op is Op.EXPAND and not node.src[0].shape:  # one number everywhere
        return node.src[0].expand(shape)
    shift = len(shape) - len(old)
    kept = [axis for axis, size in enumerate(old) if size == shape[axis + shift]]
    if len(kept) < len(old):
        node = node.reshape(tuple(old[axis] for axis in kept))
    return arrange(node, [axis + shift for axis in kept], shape)


def reduce_axes(node: UOp, op: Op, axes: Sequence[int]) -> UOp:
    """`node` reduced over `axes` (distinct, not negative), which disappear."""
    if not axes:
        return node
    rank = len(node.shape)
    kept = [axis for axis in range(rank) if axis not in axes]
    return node.permute((*kept, *sorted(axes))).reduce(op, len(axes))


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `order`."""
    result = [0] * len(order)
    for place, axis in enumerate(order):
        result[axis] = place
    return tuple(result)


def broadcast_shapes(op: str, *shapes: Shape) -> Shape:
    """The common shape by NumPy's rules. Raises ShapeError in the name of `op`."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    rank = max(map(len, shapes))
    result = []
    for axis in range(-rank, 0):
        sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(sizes) > 1:
            raise ShapeError(
                f"[{op}] shapes {' and '.join(map(str, shapes))} do not broadcast; counted from "
                f"the right, sizes must be equal or 1, but axis {axis} has {sorted(sizes)}"
            )
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def axis_of(op: str, dim: int, rank: int) -> int:
    """`dim` counted from the front.

    Raises DTypeError where it is no int, IndexOutOfRangeError otherwise, in the name of `op`.
    """
    if not hasattr(dim, "__index__"):
        raise DTypeError(f"[{op}] dim {dim!r}; it must be an int")
    if not -max(rank, 1) <= dim < max(rank, 1):
        raise IndexOutOfRangeError(
            f"[{op}] dim {dim} of a tensor with {rank} dims; it must lie in "
            f"[{-max(rank, 1)}, {max(rank, 1) - 1}]"
        )
    return dim % max(rank, 1)


def axes_of(op: str, dim: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """The axes `dim` names, all for None, in order. Raises for repeated or out-of-range ones."""
    if dim is None:
        return tuple(range(rank))
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    axes = [axis_of(op, d, rank) for d in dims]
    if len(set(axes)) != len(axes):
        raise ShapeError(f"[{op}] dim {dims} names an axis twice; each may appear once")
    return tuple(sorted(axes)) if rank else ()


def shape_argument(op: str, sizes: Sequence) -> tuple[int, ...]:
    """The ints of `f(2, 3)` or `f((2, 3))`."""
    if len(sizes) == 1 and not isinstance(sizes[0], int) and hasattr(sizes[0], "__iter__"):
        sizes = tuple(sizes[0])
    try:
        return tuple(size.__index__() for size in sizes)
    except (AttributeError, TypeError):
        raise ShapeError(f"[{op}] sizes {tuple(sizes)}; they must be ints") from None


def count(shape: Shape) -> int:
    return math.prod(shape)
