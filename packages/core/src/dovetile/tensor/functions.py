"""Transcendental functions and activations, composed of EXP2, LOG2, SIN and SQRT."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.dtypes import Scalar
from dovetile.errors import ArgumentError
from dovetile.gradient.composed import compose
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor import approximations
from dovetile.tensor.approximations import LN_2, exponential, normal_distribution
from dovetile.tensor.elementwise import Arithmetic
from dovetile.tensor.nodes import constant

if TYPE_CHECKING:
    from typing_extensions import Self

Inputs = tuple[UOp, ...]


class Functions(Arithmetic):
    """Elementwise functions. Integers and bools are converted to float32 first."""

    __slots__ = ()

    def _function(self, compute: Callable[[UOp], UOp]) -> Self:
        return self._wide(lambda x: x._wrap(compute(x.uop)))

    def _wide(self, compute: Callable[[Self], Self]) -> Self:
        """A function of this. That of a small float is rounded once, at its end: even constants
        such as log2(e) would be off by as much as the result may be."""
        value = self._floating()
        if value.dtype in dtypes.SMALL_FLOATS:
            return compute(value.float()).cast(value.dtype)
        return compute(value)

    def exp(self) -> Self:
        return self._function(exponential)

    def exp2(self) -> Self:
        return self._function(lambda x: x.alu(Op.EXP2))

    def log(self) -> Self:
        return self._function(lambda x: x.alu(Op.LOG2) * LN_2)

    def log2(self) -> Self:
        return self._function(lambda x: x.alu(Op.LOG2))

    def log10(self) -> Self:
        return self._function(lambda x: x.alu(Op.LOG2) * math.log10(2))

    def expm1(self) -> Self:
        """e**x - 1, accurate near 0."""
        return self._function(_expm1)

    def log1p(self) -> Self:
        """log(1 + x), accurate near 0."""
        return self._function(_log1p)

    def sqrt(self) -> Self:
        return self._function(lambda x: x.alu(Op.SQRT))

    def rsqrt(self) -> Self:
        return self.sqrt().reciprocal()

    def sin(self) -> Self:
        return self._function(lambda x: x.alu(Op.SIN))

    def cos(self) -> Self:
        return self._function(cosine)

    def tan(self) -> Self:
        return self.sin() / self.cos()

    def sinh(self) -> Self:
        """(e**x - e**-x) / 2, accurate near 0."""
        grown = self.expm1()
        fallen = (grown / (grown + 1)).masked_fill(grown == math.inf, 1.0)
        return (grown + fallen) * 0.5

    def cosh(self) -> Self:
        grown = self.abs().exp()
        return (grown + 1 / grown) * 0.5

    def tanh(self) -> Self:
        return self._function(lambda x: compose(approximations.tanh(x), (x,), _tanh_gradient))

    def erf(self) -> Self:
        return self._function(lambda x: compose(approximations.erf(x), (x,), _erf_gradient))

    def sigmoid(self) -> Self:
        """1 / (1 + e**-x)."""
        return self._function(_sigmoid)

    # -- activations ---------------------------------------------------------------------------

    def relu(self) -> Self:
        """max(x, 0), with gradient 0 at 0."""
        x = self.uop
        node = x.alu(Op.MAX, 0) if self.dtype.kind != "b" else x
        return self._wrap(compose(node, (x,), _relu_gradient))

    def relu6(self) -> Self:
        return self.clamp(0, 6)

    def hardtanh(self, min_val: Scalar = -1.0, max_val: Scalar = 1.0) -> Self:
        return self.clamp(min_val, max_val)

    def leaky_relu(self, negative_slope: Scalar = 0.01) -> Self:
        return self.where(self > 0, self * negative_slope)

    def elu(self, alpha: Scalar = 1.0) -> Self:
        return self.where(self > 0, self.clamp(max=0).expm1() * alpha)

    def celu(self, alpha: Scalar = 1.0) -> Self:
        return self.where(self > 0, (self.clamp(max=0) / alpha).expm1() * alpha)

    def selu(self) -> Self:
        return self.elu(1.6732632423543772) * 1.0507009873554805

    def silu(self) -> Self:
        """x * sigmoid(x)."""
        return self._wide(lambda x: x * x.sigmoid())

    swish = silu

    def gelu(self, approximate: str = "none") -> Self:
        """x * Phi(x), Phi the normal distribution function; "tanh" approximates it."""
        if approximate == "tanh":
            # (1 + tanh(y)) / 2 is sigmoid(2 * y), which loses nothing where tanh is near -1.
            scale = math.sqrt(8 / math.pi)
            return self._wide(lambda x: x * ((x + x * x * x * 0.044715) * scale).sigmoid())
        if approximate != "none":
            raise ArgumentError(f"[gelu] approximate {approximate!r}; valid are 'none' and 'tanh'")
        if self.dtype is dtypes.float64:
            return self * 0.5 * ((self * math.sqrt(0.5)).erf() + 1)
        small = self.dtype in dtypes.SMALL_FLOATS

        def normal(x: UOp) -> UOp:
            return compose(normal_distribution(x, small), (x,), _normal_gradient)

        return self._wide(lambda x: x * x._wrap(normal(x.uop)))

    def softplus(self, beta: Scalar = 1.0, threshold: Scalar = 20.0) -> Self:
        """log(1 + e**(beta * x)) / beta; x itself where beta * x exceeds the threshold."""
        scaled = self * beta
        smooth = (scaled.relu() + (-scaled.abs()).exp().log1p()) / beta
        # relu and abs have no gradient at 0, where the sum's is 1 / 2.
        smooth = smooth._wrap(compose(smooth.uop, (scaled.uop,), _softplus_gradient(beta)))
        return self.where(scaled > threshold, smooth)

    def logsigmoid(self) -> Self:
        return -(-self).softplus()

    def mish(self) -> Self:
        return self._wide(lambda x: x * x.softplus().tanh())

    def hardsigmoid(self) -> Self:
        return (self + 3).relu6() / 6

    def hardswish(self) -> Self:
        return self * self.hardsigmoid()

    def softsign(self) -> Self:
        return self / (self.abs() + 1)


def _expm1(x: UOp) -> UOp:
    # Kahan: the rounding error of e**x cancels in (e**x - 1) / log(e**x).
    grown = exponential(x)
    less = grown + -1
    one = constant(1.0, x.dtype, x.shape)
    corrected = less * (x / (grown.alu(Op.LOG2) * LN_2))
    exact = grown.eq(1).where(x, corrected)
    extreme = less.eq(-1) | grown.eq(math.inf)
    return compose(extreme.where(less, exact), (x,), lambda y, i, g: (g * (y + one),))


def _log1p(x: UOp) -> UOp:
    # Kahan: log(u) * x / (u - 1) with u = 1 + x as rounded.
    u = x + 1
    exact = u.alu(Op.LOG2) * LN_2 * (x / (u + -1))
    near = u.eq(1).where(x, exact)
    return compose(u.eq(math.inf).where(x, near), (x,), lambda y, i, g: (g / (i[0] + 1),))


def cosine(x: UOp) -> UOp:
    """sin(x + pi/2), which lowering knows and computes without rounding the sum."""
    node = (x + math.pi / 2).alu(Op.SIN)
    return compose(node, (x,), lambda y, i, g: (g * i[0].alu(Op.SIN) * -1,))


def _sigmoid(x: UOp) -> UOp:
    result = constant(1.0, x.dtype, x.shape) / (exponential(x * -1) + 1)
    return compose(result, (x,), lambda y, i, g: (g * y * (y * -1 + 1),))


def _tanh_gradient(result: UOp, inputs: Inputs, gradient: UOp) -> Inputs:
    return (gradient * (result * result * -1 + 1),)


def _erf_gradient(result: UOp, inputs: Inputs, gradient: UOp) -> Inputs:
    (x,) = inputs
    return (gradient * exponential(x * x * -1) * (2 / math.sqrt(math.pi)),)


def _normal_gradient(result: UOp, inputs: Inputs, gradient: UOp) -> Inputs:
    (x,) = inputs
    return (gradient * exponential(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)),)


def _relu_gradient(result: UOp, inputs: Inputs, gradient: UOp) -> Inputs:
    zero = constant(0.0, gradient.dtype, gradient.shape)
    return ((zero < result).where(gradient, zero),)


def _softplus_gradient(beta: Scalar) -> Callable[[UOp, Inputs, UOp], Inputs]:
    return lambda result, inputs, gradient: (gradient * _sigmoid(inputs[0]) * (1 / beta),)
