"""What the text of kernels calls: memory access with bounds checked, and conversions."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype] = {
    **{
        name: np.dtype(name)
        for name in (
            "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
        ).split()
    },
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "index": np.dtype(np.int64),
}


def load(buffer: np.ndarray, position: int) -> Any:
    """One element (or one row, where the buffer holds vectors)."""
    check(buffer, position, position)
    element = buffer[position]
    return element.copy() if buffer.ndim == 2 else element


def store(buffer: np.ndarray, position: int, value: Any) -> None:
    check(buffer, position, position)
    buffer[position] = value


def positions(start: Any, lanes: int) -> np.ndarray:
    """The positions of a vector: given as a vector, or by the first of consecutive ones."""
    return start if isinstance(start, np.ndarray) else start + np.arange(lanes)


def gather(buffer: np.ndarray, where: np.ndarray, gate: Any = True, other: Any = 0) -> np.ndarray:
    """The elements at some positions; `other` in lanes where `gate` is false."""
    gate = np.broadcast_to(gate, where.shape)
    result = np.empty(where.shape, buffer.dtype)
    result[:] = other
    if gate.any():
        wanted = where[gate]
        check(buffer, wanted.min(), wanted.max())
        result[gate] = buffer[wanted]
    return result


def scatter(buffer: np.ndarray, where: np.ndarray, value: Any, gate: Any = True) -> None:
    gate = np.broadcast_to(gate, where.shape)
    if gate.any():
        wanted = where[gate]
        check(buffer, wanted.min(), wanted.max())
        buffer[wanted] = np.broadcast_to(value, where.shape)[gate]


def check(buffer: np.ndarray, low: int, high: int) -> None:
    if low < 0 or high >= len(buffer):
        raise IndexError(f"elements {low} to {high} of a buffer of {len(buffer)}")


def cast(value: Any, dtype: str) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.astype(DTYPES[dtype])
    return DTYPES[dtype].type(value)


def bitcast(value: Any, dtype: str) -> Any:
    return np.asarray(value).view(DTYPES[dtype])[()]
