"""Elementwise arithmetic, comparisons, logic and conversions, with broadcasting and promotion."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.errors import ArgumentError, DTypeError
from dovetile.gradient.composed import compose
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.base import TensorBase, same_device
from dovetile.tensor.movement import Movement
from dovetile.tensor.nodes import broadcast, broadcast_shapes, constant

if TYPE_CHECKING:
    from typing_extensions import Self

    Operand = TensorBase | Scalar


def _no_bool(op: str, dtype: DType) -> None:
    if dtype.kind == "b":
        raise DTypeError(f"[{op}] dtype bool; it needs numbers (use logical or bitwise methods)")


def _floor(x: UOp) -> UOp:
    whole = x.alu(Op.TRUNC)
    return (x < whole).where(whole - 1, whole)


class Arithmetic(Movement):
    """Operators and named arithmetic. Operands are Tensors or Python numbers."""

    __slots__ = ()

    # -- conversion ----------------------------------------------------------------------------

    def cast(self, dtype: DType) -> Self:
        """Converted to `dtype`: floats to integers truncate, numbers to bool compare with 0."""
        if dtype is self.dtype:
            return self
        if dtype not in dtypes.TENSOR_DTYPES:
            raise DTypeError(f"[cast] dtype {dtype!r}; it must be one of dovetile.dtypes")
        return self._wrap(self.uop.cast(dtype))

    def bitcast(self, dtype: DType) -> Self:
        """The same bits read as another dtype of the same size."""
        if dtype.itemsize != self.dtype.itemsize:
            raise DTypeError(
                f"[bitcast] {self.dtype.name} to {dtype.name}; they must be equally wide"
            )
        return self._new(self.uop.bitcast(dtype))

    def float(self) -> Self:
        return self.cast(dtypes.float32)

    def double(self) -> Self:
        return self.cast(dtypes.float64)

    def half(self) -> Self:
        return self.cast(dtypes.float16)

    def bfloat16(self) -> Self:
        return self.cast(dtypes.bfloat16)

    def int(self) -> Self:
        return self.cast(dtypes.int32)

    def long(self) -> Self:
        return self.cast(dtypes.int64)

    def bool(self) -> Self:
        return self.cast(dtypes.bool_)

    def _floating(self) -> Self:
        return self if self.dtype.kind == "f" else self.cast(dtypes.float32)

    # -- two operands --------------------------------------------------------------------------

    def _pair(self, name: str, other: Operand, reverse: builtins.bool = False) -> tuple[UOp, UOp]:
        """Both operands in one dtype and shape; `other` first where reverse."""
        a = self.uop
        if isinstance(other, TensorBase):
            b = other.uop
            if a.dtype is b.dtype and a.shape == b.shape and a.device == b.device:
                return (b, a) if reverse else (a, b)
        _, (a, b) = self._match(name, other)
        return (b, a) if reverse else (a, b)

    def _binary(self, op: Op, name: str, other: Operand, reverse: builtins.bool = False) -> Self:
        a, b = self._pair(name, other, reverse)
        dtype = a.dtype
        if dtype.kind == "b" and op in (Op.ADD, Op.MUL):
            op = Op.OR if op is Op.ADD else Op.AND
        node = UOp(op, dtype, (a, b))
        return self._wrap(node, other) if isinstance(other, TensorBase) else self._wrap(node)

    def _result(self, node: UOp, *operands: Operand) -> Self:
        return self._wrap(node, *(o for o in operands if isinstance(o, TensorBase)))

    def add(self, other: Operand, alpha: Scalar = 1) -> Self:
        """self + alpha * other."""
        if alpha != 1:
            other = (other if isinstance(other, Arithmetic) else self._new_like(other)) * alpha
        return self._binary(Op.ADD, "add", other)

    def _new_like(self, value: Operand) -> Self:
        """A number as a Tensor of this dtype and no dims."""
        assert not isinstance(value, TensorBase)
        return self._new(constant(value, dtypes.promote_weak(self.dtype, value)))

    def sub(self, other: Operand, alpha: Scalar = 1) -> Self:
        """self - alpha * other."""
        if alpha != 1:
            return self.add(other, alpha=-alpha)
        return self._subtract(other, False)

    def _subtract(self, other: Operand, reverse: builtins.bool) -> Self:
        a, b = self._pair("sub", other, reverse)
        _no_bool("sub", a.dtype)
        return self._result(a + b * -1, other)

    def mul(self, other: Operand) -> Self:
        return self._binary(Op.MUL, "mul", other)

    def div(self, other: Operand, rounding_mode: str | None = None) -> Self:
        """self / other, in floating point (integers become float32).

        rounding_mode: None, "floor" (as `//`) or "trunc" (towards zero, integers stay integers).
        """
        if rounding_mode == "floor":
            return self.floor_divide(other)
        if rounding_mode == "trunc":
            a, b = self._pair("div", other)
            if a.dtype.kind == "f":
                return self._result((a / b).alu(Op.TRUNC), other)
            _no_bool("div", a.dtype)
            quotient = a // b  # rounds down: one too low where inexact and of different signs
            inexact = (quotient * b).ne(a) & ((a < 0).ne(b < 0))
            return self._result(inexact.where(quotient + 1, quotient), other)
        if rounding_mode is not None:
            raise ArgumentError(f"[div] rounding_mode {rounding_mode!r}; valid: None, floor, trunc")
        return self._divide(other, False)

    def _divide(self, other: Operand, reverse: builtins.bool) -> Self:
        a, b = self._pair("div", other, reverse)
        if a.dtype.kind != "f":
            a, b = a.cast(dtypes.float32), b.cast(dtypes.float32)
        return self._result(a / b, other)

    def floor_divide(self, other: Operand) -> Self:
        """The quotient rounded down; integers divided by zero give 0."""
        return self._floor_divide(other, False)

    def _floor_divide(self, other: Operand, reverse: builtins.bool) -> Self:
        a, b = self._pair("floor_divide", other, reverse)
        _no_bool("floor_divide", a.dtype)
        return self._result(_floor(a / b) if a.dtype.kind == "f" else a // b, other)

    def remainder(self, other: Operand) -> Self:
        """self - other * floor(self / other): has the sign of the divisor, as Python's %."""
        return self._remainder(other, False)

    def _remainder(self, other: Operand, reverse: builtins.bool) -> Self:
        a, b = self._pair("remainder", other, reverse)
        _no_bool("remainder", a.dtype)
        if a.dtype.kind == "f":
            return self._result(a + _floor(a / b) * b * -1, other)
        return self._result(a % b, other)

    def fmod(self, other: Operand) -> Self:
        """self - other * trunc(self / other): has the sign of the dividend, as C's %."""
        quotient = self.div(other, rounding_mode="trunc")
        return self - quotient * other

    def maximum(self, other: Operand) -> Self:
        """The greater of both; NaN if either is. Gradients of equal values are shared evenly."""
        return self._bound(Op.MAX, "maximum", other)

    def minimum(self, other: Operand) -> Self:
        """The lesser of both; NaN if either is. Gradients of equal values are shared evenly."""
        return self._bound(Op.MIN, "minimum", other)

    def _bound(self, op: Op, name: str, other: Operand) -> Self:
        a, b = self._pair(name, other)
        return self._result(a.alu(op, b), other)

    def pow(self, exponent: Operand) -> Self:
        """self ** exponent; integers to non-negative integer powers stay integers."""
        return self._power(exponent, False)

    def _power(self, other: Operand, reverse: builtins.bool) -> Self:
        from dovetile.tensor.power import integer_power, real_power, whole_power

        if not reverse and isinstance(other, (int, float)) and not isinstance(other, bool):
            if self.dtype.kind == "f" and other == 0.5:
                return self._wrap(self.uop.alu(Op.SQRT))
            if (
                float(other).is_integer()
                and abs(other) <= 16
                and (self.dtype.kind == "f" or isinstance(other, int) and other >= 0)
            ):
                _no_bool("pow", self.dtype)
                return self._wrap(whole_power(self.uop, int(other)))
            if self.dtype.kind != "f" and isinstance(other, int) and other < 0:
                raise ArgumentError(
                    f"[pow] {self.dtype.name} to the power {other}; integers need exponents >= 0"
                )
        a, b = self._pair("pow", other, reverse)
        _no_bool("pow", a.dtype)
        power = real_power if a.dtype.kind == "f" else integer_power
        return self._result(power(a, b), other)

    # -- comparisons ---------------------------------------------------------------------------

    def eq(self, other: Operand) -> Self:
        a, b = self._pair("eq", other)
        return self._new(a.eq(b))

    def ne(self, other: Operand) -> Self:
        a, b = self._pair("ne", other)
        return self._new(a.ne(b))

    def lt(self, other: Operand) -> Self:
        a, b = self._pair("lt", other)
        return self._new(a < b)

    def gt(self, other: Operand) -> Self:
        a, b = self._pair("gt", other)
        return self._new(b < a)

    def le(self, other: Operand) -> Self:
        return self._new(_at_most(*self._pair("le", other)))

    def ge(self, other: Operand) -> Self:
        return self._new(_at_most(*self._pair("ge", other, True)))

    def isclose(self, other: Operand, rtol: Scalar = 1e-5, atol: Scalar = 1e-8) -> Self:
        """|self - other| <= atol + rtol * |other|, and equal infinities."""
        other = other if isinstance(other, Arithmetic) else self._new_like(other)
        near = (self - other).abs() <= other.abs() * rtol + atol
        return (near & other.isfinite()) | self.eq(other)

    # -- logic and bits ------------------------------------------------------------------------

    def _bits(self, op: Op, name: str, other: Operand) -> Self:
        a, b = self._pair(name, other)
        if a.dtype.kind == "f":
            raise DTypeError(f"[{name}] dtype {a.dtype.name}; it needs integers or bool")
        return self._new(a.alu(op, b))

    def bitwise_and(self, other: Operand) -> Self:
        return self._bits(Op.AND, "bitwise_and", other)

    def bitwise_or(self, other: Operand) -> Self:
        return self._bits(Op.OR, "bitwise_or", other)

    def bitwise_xor(self, other: Operand) -> Self:
        return self._bits(Op.XOR, "bitwise_xor", other)

    def bitwise_not(self) -> Self:
        """All bits inverted; for bool the same as logical_not."""
        return self._bits(Op.XOR, "bitwise_not", True if self.dtype.kind == "b" else -1)

    def bitwise_left_shift(self, other: Operand) -> Self:
        return self._shift(Op.SHL, "bitwise_left_shift", other)

    def bitwise_right_shift(self, other: Operand) -> Self:
        """Shifted right; the sign is kept for signed integers."""
        return self._shift(Op.SHR, "bitwise_right_shift", other)

    def _shift(self, op: Op, name: str, other: Operand) -> Self:
        _no_bool(name, self.dtype)
        return self._bits(op, name, other)

    def logical_not(self) -> Self:
        return self._new(self.uop.cast(dtypes.bool_).logical_not())

    def logical_and(self, other: Operand) -> Self:
        return self.bool()._bits(Op.AND, "logical_and", _truth(other))

    def logical_or(self, other: Operand) -> Self:
        return self.bool()._bits(Op.OR, "logical_or", _truth(other))

    def logical_xor(self, other: Operand) -> Self:
        return self.bool()._bits(Op.XOR, "logical_xor", _truth(other))

    # -- choice --------------------------------------------------------------------------------

    def where(self, condition: TensorBase, other: Operand) -> Self:
        """self where the bool `condition` holds, else other (PyTorch's method)."""
        return self._choose(condition, self, other)

    def _choose(self, condition: TensorBase, then: Operand, otherwise: Operand) -> Self:
        if condition.dtype.kind != "b":
            raise DTypeError(f"[where] condition of dtype {condition.dtype.name}; it must be bool")
        first = then if isinstance(then, TensorBase) else None
        if first is None:
            first = otherwise if isinstance(otherwise, TensorBase) else None
        if first is None:
            kind = max(_category(then), _category(otherwise))
            dtype = (dtypes.bool_, dtypes.int64, dtypes.float32)[kind]
            zero = self._new(constant(0, dtype))
            _, (_, a, b) = zero._match("where", then, otherwise)
        else:
            _, (_, a, b) = first._match("where", then, otherwise)
        tensors = [t for t in (condition, then, otherwise) if isinstance(t, TensorBase)]
        same_device("where", *tensors)
        shape = broadcast_shapes("where", condition.shape, a.shape)
        node = broadcast(condition.uop, shape).where(broadcast(a, shape), broadcast(b, shape))
        return condition._wrap(node, *tensors)  # type: ignore[return-value]

    def masked_fill(self, mask: TensorBase, value: Operand) -> Self:
        """`value` where mask holds, else self; the dtype stays."""
        if isinstance(value, TensorBase):
            value = value._wrap(value.uop.cast(self.dtype))
        elif self.dtype.kind != "f" and isinstance(value, float) and not value.is_integer():
            raise DTypeError(f"[masked_fill] {value} into {self.dtype.name}; it does not fit")
        else:
            value = self._new(constant(self.dtype.convert(value), self.dtype))
        return self._choose(mask, value, self)

    # -- operators -----------------------------------------------------------------------------

    __array_ufunc__ = None  # NumPy arrays leave mixed operators to this class

    __add__ = __radd__ = add
    __sub__ = sub
    __mul__ = __rmul__ = mul
    __truediv__ = div
    __floordiv__ = floor_divide
    __mod__ = remainder
    __pow__ = pow
    __and__ = __rand__ = bitwise_and
    __or__ = __ror__ = bitwise_or
    __xor__ = __rxor__ = bitwise_xor
    __invert__ = bitwise_not
    __lshift__ = bitwise_left_shift
    __rshift__ = bitwise_right_shift
    __lt__, __gt__, __le__, __ge__ = lt, gt, le, ge

    def __rsub__(self, other: Operand) -> Self:
        return self._subtract(other, True)

    def __rtruediv__(self, other: Operand) -> Self:
        return self._divide(other, True)

    def __rfloordiv__(self, other: Operand) -> Self:
        return self._floor_divide(other, True)

    def __rmod__(self, other: Operand) -> Self:
        return self._remainder(other, True)

    def __rpow__(self, other: Operand) -> Self:
        return self._power(other, True)

    def __eq__(self, other: object) -> Self:  # type: ignore[override]
        return self.eq(other)  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Self:  # type: ignore[override]
        return self.ne(other)  # type: ignore[arg-type]

    __hash__ = object.__hash__

    def __neg__(self) -> Self:
        _no_bool("neg", self.dtype)
        return self._wrap(self.uop * -1)

    neg = __neg__

    def __pos__(self) -> Self:
        return self

    # -- one operand, without transcendental functions (those are in functions.py) --------------

    def abs(self) -> Self:
        if self.dtype.kind in "bu":
            return self
        x = self.uop
        return self._wrap(compose((x < 0).where(x * -1, x), (x,), _abs_gradient))

    __abs__ = abs
    absolute = abs

    def sign(self) -> Self:
        """-1, 0 or 1; 0 for NaN, as in PyTorch."""
        if self.dtype.kind == "b":
            return self
        x = self.uop
        zero, one = constant(0, x.dtype, x.shape), constant(1, x.dtype, x.shape)
        return self._new((zero < x).where(one, (x < zero).where(one * -1, zero)))

    def square(self) -> Self:
        return self * self

    def reciprocal(self) -> Self:
        return self._divide(1.0, True)

    def trunc(self) -> Self:
        return self._rounded(lambda x: x.alu(Op.TRUNC))

    def floor(self) -> Self:
        return self._rounded(_floor)

    def ceil(self) -> Self:
        return self._rounded(lambda x: _floor(x * -1) * -1)

    def round(self) -> Self:
        """To the nearest integer, halves to the even one."""
        return self._rounded(_round)

    def frac(self) -> Self:
        return self - self.trunc()

    def _rounded(self, function: Callable[[UOp], UOp]) -> Self:
        if self.dtype.kind != "f":
            return self
        return self._wrap(function(self.uop))

    def isnan(self) -> Self:
        return self._new(self.uop.ne(self.uop))

    def isinf(self) -> Self:
        if self.dtype.kind != "f":
            return self._new(constant(False, dtypes.bool_, self.shape))
        return (self == math.inf) | (self == -math.inf)

    def isfinite(self) -> Self:
        if self.dtype.kind != "f":
            return self._new(constant(True, dtypes.bool_, self.shape))
        return (self < math.inf) & (self > -math.inf)

    def clamp(self, min: Operand | None = None, max: Operand | None = None) -> Self:
        """Limited to [min, max]; NaN stays. The gradient passes where nothing was cut off."""
        if min is None and max is None:
            raise ArgumentError("[clamp] neither min nor max; at least one must be given")
        result = self
        if min is not None:
            a, b = result._pair("clamp", min)
            result = result._result((a < b).where(b, a), min)
        if max is not None:
            a, b = result._pair("clamp", max)
            result = result._result((b < a).where(b, a), max)
        return result

    clip = clamp

    def lerp(self, end: TensorBase, weight: Operand) -> Self:
        """self + weight * (end - self)."""
        return self + (end - self) * weight


def _at_most(a: UOp, b: UOp) -> UOp:
    """a <= b; not `not b < a`, which is true for NaN."""
    if a.dtype.kind == "f":
        return (a < b) | a.eq(b)
    return (b < a).logical_not()


def _truth(value: Operand) -> Operand:
    if isinstance(value, TensorBase):
        return value._new(value.uop.cast(dtypes.bool_))
    return builtins.bool(value)


def _category(value: Operand) -> builtins.int:
    if isinstance(value, TensorBase):
        return 0
    return 0 if isinstance(value, builtins.bool) else 1 if isinstance(value, builtins.int) else 2


def _abs_gradient(result: UOp, inputs: tuple[UOp, ...], gradient: UOp) -> tuple[UOp]:
    (x,) = inputs
    negative = (x < 0).where(gradient * -1, gradient)
    return (x.ne(0).where(negative, constant(0, gradient.dtype, x.shape)),)


def _round(x: UOp) -> UOp:
    low = _floor(x)
    above = x + low * -1
    half = low * 0.5
    odd = half.ne(_floor(half))
    up = (constant(0.5, above.dtype, x.shape) < above) | (above.eq(0.5) & odd)
    return up.where(low + 1, low)
