"""Evaluates graphs on plain numbers and arrays, independently of the compiler: what tests of
rewrites compare with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dovetile import dtypes
from dovetile.ir import Op, UOp


def _divided(operation):
    def apply(a, b):
        with np.errstate(divide="ignore"):
            return np.where(b == 0, 0, operation(a, b))

    return apply


_OPERATIONS = {
    Op.ADD: np.add,
    Op.MUL: np.multiply,
    Op.FLOORDIV: _divided(np.floor_divide),
    Op.FLOORMOD: _divided(np.remainder),
    Op.MAX: np.maximum,
    Op.MIN: np.minimum,
    Op.LT: np.less,
    Op.NE: np.not_equal,
    Op.AND: np.bitwise_and,
    Op.OR: np.bitwise_or,
    Op.XOR: np.bitwise_xor,
    Op.WHERE: np.where,
}


def numpy_type(dtype: dtypes.DType) -> np.dtype:
    return np.dtype(np.int64) if dtype is dtypes.index else dtypes.to_numpy(dtype)


def index_values(node: UOp, leaves: Mapping[UOp, np.ndarray]) -> np.ndarray:
    """The values of an expression of indices and conditions at many points: `leaves` holds the
    values of the loops and variables at each."""
    values: dict[UOp, np.ndarray] = {}
    for n in node.toposort():
        if n in leaves:
            values[n] = leaves[n]
        elif n.op is Op.CONST:
            values[n] = np.asarray(n.arg, numpy_type(n.dtype))
        elif n.op is Op.CAST:
            values[n] = values[n.src[0]].astype(numpy_type(n.dtype))
        elif n.op is not Op.RANGE:  # an open loop not among the leaves cannot be used: KeyError
            values[n] = _OPERATIONS[n.op](*(values[s] for s in n.src))
    return values[node]


def _moved(node: UOp, x: np.ndarray) -> np.ndarray:
    op, arg = node.op, node.arg
    if op is Op.RESHAPE:
        return x.reshape(arg)
    if op is Op.PERMUTE:
        return x.transpose(arg)
    if op is Op.EXPAND:
        return np.broadcast_to(x.reshape(x.shape + (1,) * len(arg)), x.shape + arg)
    if op is Op.PAD:
        return np.pad(x, arg)
    if op is Op.SHRINK:
        return x[tuple(slice(start, stop) for start, stop in arg)]
    assert op is Op.FLIP
    return np.flip(x, arg)


def tensor_value(node: UOp, leaves: Mapping[UOp, np.ndarray]) -> np.ndarray:
    """The value of a graph of movement ops, additions and products."""
    values: dict[UOp, np.ndarray] = {}
    for n in node.toposort():
        if n in leaves:
            values[n] = leaves[n]
        elif n.op is Op.CONST:
            values[n] = np.asarray(n.arg)
        elif n.op is Op.ADD:
            values[n] = values[n.src[0]] + values[n.src[1]]
        elif n.op is Op.MUL:
            values[n] = values[n.src[0]] * values[n.src[1]]
        else:
            values[n] = _moved(n, values[n.src[0]])
    return values[node]
