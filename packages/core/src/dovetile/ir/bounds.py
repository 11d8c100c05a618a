"""Inclusive bounds of integer and bool values. Floats are only bounded when constant."""

from __future__ import annotations

from dovetile.dtypes import Scalar
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp

Bounds = tuple[Scalar, Scalar]


def bounds_of(node: UOp) -> Bounds:
    """(least, greatest) value `node` can take; the type's limits where nothing better is known."""
    op = node.op
    if op is Op.CONST:
        return (node.arg, node.arg)
    if op is Op.VARIABLE:
        return (node.arg.minimum, node.arg.maximum)
    if op is Op.IOTA:
        return (0, max(node.arg - 1, 0))
    if op is Op.RANGE or op is Op.SPECIAL:
        return (0, max(node.src[0].bounds[1] - 1, 0))
    if node.dtype.kind == "v":  # effects have no value; the state after them has one
        return (0, 0)
    if node.dtype.kind == "f":
        return (node.dtype.minimum, node.dtype.maximum)
    if op in _SAME_AS_SOURCE:
        return node.src[0].bounds
    if op is Op.VECTOR:
        return (min(s.bounds[0] for s in node.src), max(s.bounds[1] for s in node.src))
    if op is Op.PAD:
        low, high = node.src[0].bounds
        return (min(low, 0), max(high, 0))
    found = _exact(node)
    if found is None:
        return (node.dtype.minimum, node.dtype.maximum)
    low, high = found
    # A value that may leave its type wraps, and then nothing is known. `index` never does.
    if low < node.dtype.minimum or high > node.dtype.maximum:
        return (node.dtype.minimum, node.dtype.maximum)
    return (low, high)


_SAME_AS_SOURCE = frozenset(
    {
        Op.AFTER, Op.RESHAPE, Op.PERMUTE, Op.EXPAND, Op.SHRINK, Op.FLIP, Op.STAGE, Op.EXTRACT,
        Op.COPY, Op.SHUFFLE,
    }
)  # fmt: skip


def _exact(node: UOp) -> Bounds | None:
    op, src = node.op, node.src
    if op is Op.CAST:
        return src[0].bounds if src[0].dtype.kind != "f" and node.dtype.kind != "b" else None
    if op is Op.WHERE:
        (a, b), (c, d) = src[1].bounds, src[2].bounds
        return (min(a, c), max(b, d))
    if op is Op.REDUCE and (node.arg[0] if isinstance(node.arg, tuple) else node.arg) in (
        Op.MAX,
        Op.MIN,
    ):
        return src[0].bounds if _never_empty(node) else None
    if len(src) != 2 or src[0].dtype.kind == "f":
        return None
    (a, b), (c, d) = src[0].bounds, src[1].bounds
    if op is Op.ADD:
        return (a + c, b + d)
    if op is Op.SUB:
        return (a - d, b - c)
    if op is Op.MUL:
        corners = (a * c, a * d, b * c, b * d)
        return (min(corners), max(corners))
    if op is Op.MAX:
        return (max(a, c), max(b, d))
    if op is Op.MIN:
        return (min(a, c), min(b, d))
    if op is Op.LT:
        return (b < c, a < d)
    if op is Op.NE:
        return (b < c or d < a, not (a == b == c == d))
    if op is Op.FLOORDIV:
        if c > 0 or d < 0:
            corners = (a // c, a // d, b // c, b // d)
            return (min(corners), max(corners))
        return None
    if op is Op.FLOORMOD:
        if c > 0:
            if c == d and a // c == b // c:
                return (a % c, b % c)
            return (0, min(d - 1, b) if a >= 0 else d - 1)
        return None
    if op is Op.AND:
        if node.dtype.kind == "b":
            return (a and c, b and d)
        return (0, min(x for x, low in ((b, a), (d, c)) if low >= 0)) if a >= 0 or c >= 0 else None
    if op is Op.OR and node.dtype.kind == "b":
        return (a or c, b or d)
    if op is Op.XOR and node.dtype.kind == "b" and c == d:
        return (not b, not a) if c else (a, b)
    if op is Op.XOR and node.dtype.is_integer and a >= 0 and c >= 0:
        return (0, (1 << int(max(b, d)).bit_length()) - 1)
    if op is Op.SHL and 0 <= c <= d < 64 and a >= 0:
        return (int(a) << int(c), int(b) << int(d))
    if op is Op.SHR and 0 <= c <= d < 64 and a >= 0:
        return (int(a) >> int(d), int(b) >> int(c))
    return None


def _never_empty(node: UOp) -> bool:
    if isinstance(node.arg, Op):
        return all(r.src[0].bounds[0] > 0 for r in node.src[1:] if r.op is Op.RANGE)
    return all(n > 0 for n in node.src[0].shape)
