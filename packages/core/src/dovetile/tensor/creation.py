"""Tensors from nothing: constants, ranges, and the shapes of others. All are lazy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.errors import ArgumentError, DTypeError, ShapeError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor import placement
from dovetile.tensor.base import check_number
from dovetile.tensor.gathering import Gathering
from dovetile.tensor.nodes import arrange, constant, iota, shape_argument

if TYPE_CHECKING:
    from typing_extensions import Self


def check_dtype(op: str, dtype: object) -> None:
    """Raises DTypeError unless `dtype` is one that tensors may have."""
    if dtype not in dtypes.TENSOR_DTYPES:
        raise DTypeError(f"[{op}] dtype {dtype!r}; it must be one of dovetile.dtypes")


class Creation(Gathering):
    """Class methods that make Tensors. Constants take no memory until something writes to them."""

    __slots__ = ()

    @classmethod
    def _made(cls, node: UOp, device: str | None, requires_grad: bool) -> Self:
        if device is not None:
            name = placement.device_name(device)
            if name != placement.default_device_name():
                node = UOp(Op.COPY, node.dtype, (node,), name)
        result = cls._new(node)
        return result.requires_grad_() if requires_grad else result

    @classmethod
    def full(
        cls, size: int | Sequence[int], fill_value: Scalar, *, dtype: DType | None = None,
        device: str | None = None, requires_grad: bool = False,
    ) -> Self:  # fmt: skip
        """`fill_value` everywhere; dtype None: that of the number (float32, int64 or bool)."""
        check_number("full", fill_value)
        if dtype is None:
            dtype = dtype_of_number(fill_value)
        check_dtype("full", dtype)
        shape = shape_argument("full", (size,))
        if any(n < 0 for n in shape):
            raise ShapeError(f"[full] shape {shape}; sizes must not be negative")
        return cls._made(constant(fill_value, dtype, shape), device, requires_grad)

    @classmethod
    def zeros(
        cls, *size: int | Sequence[int], dtype: DType | None = None, device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:  # fmt: skip
        return cls.full(
            shape_argument("zeros", size), 0, dtype=dtype or dtypes.float32, device=device,
            requires_grad=requires_grad,
        )  # fmt: skip

    @classmethod
    def ones(
        cls, *size: int | Sequence[int], dtype: DType | None = None, device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:  # fmt: skip
        return cls.full(
            shape_argument("ones", size), 1, dtype=dtype or dtypes.float32, device=device,
            requires_grad=requires_grad,
        )  # fmt: skip

    @classmethod
    def empty(
        cls, *size: int | Sequence[int], dtype: DType | None = None, device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:  # fmt: skip
        """Zeros: nothing is left undefined, and nothing is computed before it is written."""
        return cls.zeros(*size, dtype=dtype, device=device, requires_grad=requires_grad)

    def full_like(self, fill_value: Scalar, *, dtype: DType | None = None) -> Self:
        return self._made(
            constant(fill_value, dtype or self.dtype, self.shape), self.uop.device, False
        )

    def zeros_like(self, *, dtype: DType | None = None) -> Self:
        return self.full_like(0, dtype=dtype)

    def ones_like(self, *, dtype: DType | None = None) -> Self:
        return self.full_like(1, dtype=dtype)

    def empty_like(self, *, dtype: DType | None = None) -> Self:
        return self.full_like(0, dtype=dtype)

    @classmethod
    def arange(
        cls, start: Scalar, end: Scalar | None = None, step: Scalar = 1, *,
        dtype: DType | None = None, device: str | None = None, requires_grad: bool = False,
    ) -> Self:  # fmt: skip
        """start, start + step, ... below end (arange(n): 0 to n - 1); int64 of ints."""
        if end is None:
            start, end = 0, start
        for number in (start, end, step):
            check_number("arange", number)
        if step == 0 or not all(math.isfinite(n) for n in (start, end, step)):
            raise ArgumentError(f"[arange] {start}, {end}, {step}; finite, and the step not 0")
        if (end - start) * step < 0:
            raise ArgumentError(
                f"[arange] from {start} to {end} by {step}; the step must lead towards the end"
            )
        if dtype is None:
            whole = all(isinstance(n, int) for n in (start, end, step))
            dtype = dtypes.int64 if whole else dtypes.float32
        check_dtype("arange", dtype)
        size = max(math.ceil((end - start) / step), 0)
        return cls._made(_ramp(size, start, step, dtype), device, requires_grad)

    @classmethod
    def linspace(
        cls, start: Scalar, end: Scalar, steps: int, *, dtype: DType | None = None,
        device: str | None = None, requires_grad: bool = False,
    ) -> Self:  # fmt: skip
        """`steps` numbers at equal distances from start to end, both included."""
        if steps < 0:
            raise ArgumentError(f"[linspace] steps {steps}; it must not be negative")
        dtype = dtype or dtypes.float32
        if steps < 2:
            return cls._made(constant(start, dtype, (steps,)), device, requires_grad)
        step = (end - start) / (steps - 1)
        inner = dtype if dtype.kind == "f" else dtypes.float64
        rising = _ramp(steps, start, step, inner)
        # From both ends, so that the last number is `end` exactly.
        falling = (iota(steps).cast(inner) + (1 - steps)) * step + end
        node = (iota(steps) < steps // 2).where(rising, falling)
        return cls._made(node.cast(dtype), device, requires_grad)

    @classmethod
    def eye(
        cls, n: int, m: int | None = None, *, dtype: DType | None = None,
        device: str | None = None, requires_grad: bool = False,
    ) -> Self:  # fmt: skip
        """1 on the diagonal of an n x m matrix (m None: square), 0 elsewhere."""
        m = n if m is None else m
        if n < 0 or m < 0:
            raise ShapeError(f"[eye] {n} x {m}; sizes must not be negative")
        node = arrange(iota(n), [0], (n, m)).eq(arrange(iota(m), [1], (n, m)))
        return cls._made(node.cast(dtype or dtypes.float32), device, requires_grad)


def dtype_of_number(value: Scalar) -> DType:
    """bool, int64 or float32."""
    if isinstance(value, bool):
        return dtypes.bool_
    return dtypes.int64 if isinstance(value, int) else dtypes.float32


def _ramp(size: int, start: Scalar, step: Scalar, dtype: DType) -> UOp:
    """start + i * step; floats are computed in float32 at least."""
    if dtype.kind in "uib" and all(float(n).is_integer() for n in (start, step)):
        start, step = int(start), int(step)
        inner = dtypes.int64
    else:
        inner = dtypes.float64 if dtype is dtypes.float64 else dtypes.float32
        start, step = float(start), float(step)
    node = iota(size).cast(inner)
    node = node if step == 1 else node * step
    node = node if start == 0 else node + start
    return node.cast(dtype)
