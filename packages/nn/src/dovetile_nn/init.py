"""Initial values of parameters: PyTorch's defaults.

They are drawn on the host, so that making a model compiles no kernels, and a parameter is plain
memory from the start: the first training step is the same graph as all later ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from dovetile import Tensor, dtypes, host_generator


def uniform(*shape: int, bound: float, dtype: Any = None, device: Any = None) -> Tensor:
    """A parameter of `shape`, uniform in [-bound, bound)."""
    return _parameter((2 * host_generator().random(shape) - 1) * bound, dtype, device)


def normal(*shape: int, std: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """A parameter of `shape`, normal with mean 0 and standard deviation `std`."""
    return _parameter(host_generator().standard_normal(shape) * std, dtype, device)


def constant(*shape: int, value: float, dtype: Any = None, device: Any = None) -> Tensor:
    """A parameter of `shape` with one value everywhere."""
    return _parameter(numpy.full(shape, value), dtype, device)


def fan_in_bound(fan_in: int) -> float:
    """1 / sqrt(fan_in): the bound which PyTorch's linear and convolution layers begin with.

    It is what He et al. ("Delving Deep into Rectifiers", 2015) gives for a leaky slope of sqrt(5).
    """
    return 1 / math.sqrt(fan_in) if fan_in else 0.0


def _parameter(values: numpy.ndarray, dtype: Any, device: Any) -> Tensor:
    return Tensor(values, dtype or dtypes.float32, device, requires_grad=True)
