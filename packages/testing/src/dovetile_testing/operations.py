"""The operations of level 3: what Tensor computes, and the same in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetile import Tensor
from dovetile.dtypes import DType

FLOATS = "f"
NUMBERS = "fiu"
INTEGERS = "iu"
SIGNED = "fi"
ALL = "fiub"
BITS = "iub"


@dataclass(frozen=True)
class Operation:
    """One operation, its reference, and the inputs it is tried on."""

    name: str
    compute: Callable[..., Tensor]
    reference: Callable[..., Any]
    """On float64, int64, uint64 or bool arrays: NumPy computes more precisely than the device."""
    kinds: str = FLOATS
    """Kinds of the input dtypes: f(loat), i(nteger), u(nsigned), b(ool)."""
    shapes: tuple[tuple[int, ...], ...] = ((3, 5),)
    """Shapes of the inputs."""
    low: float = -3.0
    high: float = 3.0
    """Range of the inputs; for unsigned dtypes it begins at 0 (or at `low` if that is more)."""
    nonzero: int | None = None
    """Which input must not have zeros."""
    slack: float = 1.0
    """Factor on the tolerance, for operations that add up many rounding errors."""

    def inputs(self, random: np.random.Generator, dtype: DType, host: np.dtype) -> list[np.ndarray]:
        """Arrays of the dtype's NumPy counterpart."""
        arrays = []
        for position, shape in enumerate(self.shapes):
            low = max(self.low, 0.0) if dtype.kind == "u" else self.low
            if dtype.kind == "b":
                array = random.integers(0, 2, shape)
            elif dtype.kind == "f":
                array = random.uniform(low, self.high, shape)
            else:
                array = random.integers(round(low), round(self.high) + 1, shape)
            if position == self.nonzero:
                array = np.where(np.abs(array) < 0.25, 1, array)
            arrays.append(array.astype(host))
        return arrays


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def _windows(x: np.ndarray, size: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))


def _conv2d(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.einsum("bchwij,ocij->bohw", _windows(x, 3), weight)


def _max_pool2d(x: np.ndarray) -> np.ndarray:
    return _windows(x, 2)[:, :, ::2, ::2].max((-1, -2))


TWO = ((3, 5), (3, 5))
BROADCAST = ((3, 1, 5), (4, 1))

UNARY = [
    Operation("neg", lambda x: -x, np.negative, SIGNED),
    Operation("abs", lambda x: x.abs(), np.abs, SIGNED),
    Operation("sign", lambda x: x.sign(), np.sign, SIGNED),
    Operation("relu", lambda x: x.relu(), lambda x: np.maximum(x, 0), SIGNED),
    Operation("square", lambda x: x.square(), np.square, NUMBERS),
    Operation("invert", lambda x: x.bitwise_not(), np.invert, INTEGERS + "b"),
    Operation("logical_not", lambda x: x.logical_not(), np.logical_not, ALL),
    Operation("clamp", lambda x: x.clamp(1, 2), lambda x: np.clip(x, 1, 2), NUMBERS),
    Operation("floor", lambda x: x.floor(), np.floor),
    Operation("ceil", lambda x: x.ceil(), np.ceil),
    Operation("trunc", lambda x: x.trunc(), np.trunc),
    Operation("round", lambda x: x.round(), np.round),
    Operation("sqrt", lambda x: x.sqrt(), np.sqrt, low=0.0),
    Operation("rsqrt", lambda x: x.rsqrt(), lambda x: 1 / np.sqrt(x), low=0.1),
    Operation("reciprocal", lambda x: x.reciprocal(), lambda x: 1 / x, nonzero=0),
    Operation("exp", lambda x: x.exp(), np.exp),
    Operation("exp2", lambda x: x.exp2(), np.exp2),
    Operation("expm1", lambda x: x.expm1(), np.expm1),
    Operation("log", lambda x: x.log(), np.log, low=0.1),
    Operation("log2", lambda x: x.log2(), np.log2, low=0.1),
    Operation("log1p", lambda x: x.log1p(), np.log1p, low=-0.5),
    Operation("sin", lambda x: x.sin(), np.sin),
    Operation("cos", lambda x: x.cos(), np.cos),
    Operation("tanh", lambda x: x.tanh(), np.tanh),
    Operation("sigmoid", lambda x: x.sigmoid(), _sigmoid),
    Operation("silu", lambda x: x.silu(), lambda x: x * _sigmoid(x)),
    Operation("erf", lambda x: x.erf(), _erf),
    Operation("gelu", lambda x: x.gelu(), lambda x: x / 2 * (1 + _erf(x / np.sqrt(2))), slack=4),
    Operation("isnan", lambda x: (x / 0).isnan(), lambda x: x == 99, low=1.0),
]

BINARY = [
    Operation("add", lambda x, y: x + y, np.add, ALL, TWO),
    Operation("add_broadcast", lambda x, y: x + y, np.add, NUMBERS, BROADCAST),
    Operation("add_number", lambda x: 2 + x, lambda x: 2 + x, NUMBERS),
    Operation("sub", lambda x, y: x - y, np.subtract, SIGNED, TWO),
    Operation("mul", lambda x, y: x * y, np.multiply, ALL, TWO),
    Operation("div", lambda x, y: x / y, np.divide, FLOATS, TWO, nonzero=1),
    Operation("floor_divide", lambda x, y: x // y, np.floor_divide, INTEGERS, TWO, nonzero=1),
    Operation("remainder", lambda x, y: x % y, np.remainder, INTEGERS, TWO, nonzero=1),
    Operation("maximum", lambda x, y: x.maximum(y), np.maximum, ALL, TWO),
    Operation("minimum", lambda x, y: x.minimum(y), np.minimum, ALL, TWO),
    Operation("pow", lambda x, y: x**y, np.power, FLOATS, TWO, low=0.2),
    Operation("lt", lambda x, y: x < y, np.less, ALL, TWO),
    Operation("le", lambda x, y: x <= y, np.less_equal, ALL, TWO),
    Operation("eq", lambda x, y: x == y, np.equal, ALL, TWO),
    Operation("ne", lambda x, y: x != y, np.not_equal, ALL, TWO),
    Operation("and", lambda x, y: x & y, np.bitwise_and, BITS, TWO),
    Operation("or", lambda x, y: x | y, np.bitwise_or, BITS, TWO),
    Operation("xor", lambda x, y: x ^ y, np.bitwise_xor, BITS, TWO),
    Operation("shift_left", lambda x: x << 2, lambda x: x << 2, INTEGERS),
    Operation("shift_right", lambda x: x >> 1, lambda x: x >> 1, INTEGERS),
    Operation("where", lambda x, y: x.where(x < y, y), np.minimum, NUMBERS, TWO),
]

REDUCTIONS = [
    Operation("sum", lambda x: x.sum(), np.sum, ALL),
    Operation("sum_last", lambda x: x.sum(-1), lambda x: x.sum(-1), ALL),
    Operation("sum_first", lambda x: x.sum(0), lambda x: x.sum(0), ALL),
    Operation("sum_none", lambda x: x.sum(1), lambda x: x.sum(1), NUMBERS, ((3, 0),)),
    Operation("prod", lambda x: x.prod(1), lambda x: x.prod(1), NUMBERS, slack=4),
    Operation("mean", lambda x: x.mean(1), lambda x: x.mean(1)),
    Operation("var", lambda x: x.var(1), lambda x: x.var(1, ddof=1), slack=4),
    Operation("amax", lambda x: x.amax(0), lambda x: x.max(0), NUMBERS),
    Operation("amin", lambda x: x.amin(1), lambda x: x.min(1), NUMBERS),
    Operation("argmax", lambda x: x.argmax(1), lambda x: x.argmax(1), NUMBERS),
    Operation("any", lambda x: x.any(1), lambda x: x.any(1), ALL),
    Operation("all", lambda x: x.all(1), lambda x: x.all(1), ALL),
    Operation("cumsum", lambda x: x.cumsum(1), lambda x: x.cumsum(1), NUMBERS, slack=4),
]

MOVEMENT = [
    Operation("reshape", lambda x: x.reshape(5, 3), lambda x: x.reshape(5, 3), ALL),
    Operation("permute", lambda x: x.permute(1, 0), lambda x: x.T, ALL),
    Operation("flip", lambda x: x.flip(1), lambda x: x[:, ::-1], ALL),
    Operation("slice", lambda x: x[1:, ::2], lambda x: x[1:, ::2], ALL),
    Operation("pad", lambda x: x.pad((1, 2, 3, 0)), lambda x: np.pad(x, ((3, 0), (1, 2))), ALL),
    Operation(
        "expand",
        lambda x: x.reshape(3, 1, 5).expand(3, 4, 5) + x.reshape(3, 1, 5),
        lambda x: np.repeat(2 * x[:, None], 4, 1),
        NUMBERS,
    ),
    Operation(
        "cat", lambda x, y: Tensor.cat([x, y], 1), lambda x, y: np.concatenate([x, y], 1), ALL, TWO
    ),
    Operation("stack", lambda x, y: Tensor.stack([x, y]), lambda x, y: np.stack([x, y]), ALL, TWO),
    Operation("select", lambda x: x[Tensor([2, 0, -1])], lambda x: x[[2, 0, -1]], ALL),
]

LINEAR = [
    Operation("matmul", lambda x, y: x @ y, np.matmul, NUMBERS, ((7, 17), (17, 9)), slack=16),
    Operation(
        "matmul_batched", lambda x, y: x @ y, np.matmul, FLOATS, ((2, 3, 4), (2, 4, 5)), slack=8
    ),
    Operation(
        "conv2d", lambda x, w: x.conv2d(w), _conv2d, FLOATS, ((2, 3, 6, 7), (4, 3, 3, 3)), slack=32
    ),
    Operation("max_pool2d", lambda x: x.max_pool2d(2), _max_pool2d, FLOATS, ((1, 2, 4, 6),)),
    Operation("softmax", lambda x: x.softmax(-1), _softmax, slack=4),
    Operation("log_softmax", lambda x: x.log_softmax(-1), lambda x: np.log(_softmax(x)), slack=4),
    Operation("layer_norm", lambda x: x.layer_norm((5,)), _layer_norm, slack=8),
]

OPERATIONS = [*UNARY, *BINARY, *REDUCTIONS, *MOVEMENT, *LINEAR]
