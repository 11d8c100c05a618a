"""Initial values of parameters: PyTorch's defaults."""

from __future__ import annotations

import math
from typing import Any

from dovetile import Tensor


def uniform(*shape: int, bound: float, dtype: Any = None, device: Any = None) -> Tensor:
    """A parameter of `shape`, uniform in [-bound, bound)."""
    return _parameter(Tensor.rand(*shape, device=device) * (2 * bound) - bound, dtype)


def normal(*shape: int, std: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """A parameter of `shape`, normal with mean 0 and standard deviation `std`."""
    return _parameter(Tensor.randn(*shape, device=device) * std, dtype)


def constant(*shape: int, value: float, dtype: Any = None, device: Any = None) -> Tensor:
    """A parameter of `shape` with one value everywhere."""
    return _parameter(Tensor.full(shape, value, device=device), dtype)


def fan_in_bound(fan_in: int) -> float:
    """1 / sqrt(fan_in): the bound which PyTorch's linear and convolution layers begin with.

    It is what He et al. ("Delving Deep into Rectifiers", 2015) gives for a leaky slope of sqrt(5).
    """
    return 1 / math.sqrt(fan_in) if fan_in else 0.0


def _parameter(values: Tensor, dtype: Any) -> Tensor:
    return (values if dtype is None else values.cast(dtype)).requires_grad_()
