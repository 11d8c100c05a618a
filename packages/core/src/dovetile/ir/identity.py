"""The neutral elements of the operations that reduce."""

from __future__ import annotations

from dovetile.dtypes import DType, Scalar
from dovetile.ir.ops import Op


def identity(op: Op, dtype: DType) -> Scalar:
    """The value that changes nothing under the reduction `op`."""
    return {Op.ADD: 0, Op.MUL: 1, Op.MAX: dtype.minimum, Op.MIN: dtype.maximum}[op]
