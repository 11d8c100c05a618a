"""Element types: what a value is, how wide it is, and how two of them combine."""

from __future__ import annotations

import builtins
import math
from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np

Scalar = builtins.bool | int | float


@dataclass(frozen=True, eq=False)
class DType:
    """An element type; inside kernels also a short vector of `lanes` elements.

    `kind` is 'b' (bool), 'u', 'i' (unsigned, signed integer), 'f' (float) or 'v' (no value).
    Every (name, lanes) exists once, so types compare by identity.
    """

    name: str
    itemsize: int
    kind: str
    lanes: int = 1

    def __repr__(self) -> str:
        return f"dtypes.{self.name}" + (f".vec({self.lanes})" if self.lanes > 1 else "")

    def __reduce__(self) -> tuple:
        return (_lookup, (self.name, self.lanes))

    def __deepcopy__(self, memo: dict) -> DType:
        return self

    def vec(self, lanes: int) -> DType:
        """The vector of `lanes` elements of this scalar type."""
        return _lookup(self.name, lanes)

    @property
    def scalar(self) -> DType:
        return self if self.lanes == 1 else _lookup(self.name, 1)

    @property
    def bits(self) -> int:
        return self.itemsize * 8

    @property
    def is_float(self) -> builtins.bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> builtins.bool:
        """Signed and unsigned integers, not bool."""
        return self.kind in "ui"

    @property
    def minimum(self) -> Scalar:
        """Smallest value; -inf for floats that have it."""
        if self.kind == "b":
            return False
        if self.kind == "f":
            return -self.maximum
        return 0 if self.kind == "u" else -(1 << (self.bits - 1))

    @property
    def maximum(self) -> Scalar:
        """Largest value; inf for floats that have it."""
        if self.kind == "b":
            return True
        if self.kind == "f":
            return 448.0 if self.name == "float8_e4m3fn" else math.inf
        return (1 << self.bits) - 1 if self.kind == "u" else (1 << (self.bits - 1)) - 1

    def convert(self, value: Scalar) -> Scalar:
        """A Python number as this type holds it: integers wrap, floats round to the type."""
        if self.kind == "b":
            return builtins.bool(value)
        if self.kind == "f":
            return _round_float(self.name, float(value))
        if isinstance(value, float) and not math.isfinite(value):
            return 0
        wrapped = int(value) & ((1 << self.bits) - 1)
        return wrapped - (1 << self.bits) if wrapped > self.maximum else wrapped

    def pattern(self, value: Scalar) -> int:
        """The bits of a number of this type."""
        bits = np.asarray(value).astype(_NUMPY[self.name])
        return int(bits.view(np.dtype(f"u{self.itemsize}")))


void = DType("void", 0, "v")
bool_ = DType("bool", 1, "b")
uint8 = DType("uint8", 1, "u")
uint16 = DType("uint16", 2, "u")
uint32 = DType("uint32", 4, "u")
uint64 = DType("uint64", 8, "u")
int8 = DType("int8", 1, "i")
int16 = DType("int16", 2, "i")
int32 = DType("int32", 4, "i")
int64 = DType("int64", 8, "i")
# Named for their bits of exponent and mantissa; "fn": finite, with one NaN. See "FP8 Formats for
# Deep Learning" (Micikevicius et al., 2022). What is too large becomes NaN, or, in e5m2, infinite.
float8_e4m3fn = DType("float8_e4m3fn", 1, "f")
float8_e5m2 = DType("float8_e5m2", 1, "f")
float16 = DType("float16", 2, "f")
bfloat16 = DType("bfloat16", 2, "f")
float32 = DType("float32", 4, "f")
float64 = DType("float64", 8, "f")
# Arithmetic on indices and loop counters. Never stored in a buffer and, unlike int64 data, never
# overflows, which is what makes the integer algebra of `ir.symbolic` valid on it.
index = DType("index", 8, "i")

TENSOR_DTYPES = (
    bool_, uint8, int8, uint16, int16, uint32, int32, uint64, int64,
    float8_e4m3fn, float8_e5m2, float16, bfloat16, float32, float64,
)  # fmt: skip
FLOAT8 = (float8_e4m3fn, float8_e5m2)
SMALL_FLOATS = (*FLOAT8, float16, bfloat16)
"""Floats that are summed up, and mostly computed with, in float32."""

_SCALARS = {d.name: d for d in (*TENSOR_DTYPES, index, void)}
globals()["bool"] = bool_  # `dtypes.bool`, as in torch.bool; this module itself uses bool_


@cache
def _lookup(name: str, lanes: int) -> DType:
    scalar = _SCALARS[name]
    return scalar if lanes == 1 else DType(name, scalar.itemsize, scalar.kind, lanes)


_NUMPY = {d.name: np.dtype(getattr(ml_dtypes, d.name, d.name)) for d in TENSOR_DTYPES}
_FROM_NUMPY = {dtype: _SCALARS[name] for name, dtype in _NUMPY.items()}


def _round_float(name: str, value: float) -> float:
    if name == "float64":
        return value
    with np.errstate(over="ignore"):
        return float(np.asarray(value).astype(_NUMPY[name]))


def to_numpy(dtype: DType) -> np.dtype:
    """The NumPy dtype with the same memory layout (bfloat16 and float8 through ml_dtypes)."""
    return _NUMPY[dtype.name]


def from_numpy(dtype: np.dtype) -> DType | None:
    """The DType for a NumPy dtype in native byte order, or None where there is none."""
    return _FROM_NUMPY.get(np.dtype(dtype))


def from_name(name: str) -> DType | None:
    """The scalar tensor DType of that name, or None."""
    found = _SCALARS.get(name)
    return found if found in TENSOR_DTYPES else None


# The least type that holds both, as PyTorch's table: categories bool < integer < float; unsigned
# wide types with signed ones go to the next wider signed type.
def _promote_pair(a: DType, b: DType) -> DType:
    if a is b or b is bool_:
        return a
    if a is bool_:
        return b
    if a.is_float != b.is_float:
        return a if a.is_float else b
    if a.is_float:
        if {a, b} == {float16, bfloat16}:
            return float32
        if {a, b} == {*FLOAT8}:
            return float16
        return a if a.itemsize >= b.itemsize else b
    if a.kind == b.kind:
        return a if a.itemsize >= b.itemsize else b
    unsigned, signed = (a, b) if a.kind == "u" else (b, a)
    if signed.itemsize > unsigned.itemsize:
        return signed
    wider = {1: int16, 2: int32, 4: int64}.get(unsigned.itemsize)
    return wider if wider is not None else float32


PROMOTION = {(a, b): _promote_pair(a, b) for a in TENSOR_DTYPES for b in TENSOR_DTYPES}


def promote(*types: DType) -> DType:
    """The common type of several scalar types."""
    result = types[0]
    for other in types[1:]:
        result = PROMOTION[result, other]
    return result


def promote_weak(dtype: DType, value: Scalar, default_float: DType = float32) -> DType:
    """The type of `tensor op python_number`: a number only raises the category, never the width."""
    if isinstance(value, builtins.bool):
        return dtype
    if isinstance(value, int):
        return int64 if dtype is bool_ else dtype
    return dtype if dtype.is_float else default_float
