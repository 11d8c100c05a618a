"""Dovetile: a deep-learning tensor compiler whose devices plug in."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dovetile import dtypes as dtypes
    from dovetile.capture import jit as jit
    from dovetile.runtime.counting import counters as counters
    from dovetile.tensor import Tensor as Tensor
    from dovetile.tensor import enable_grad as enable_grad
    from dovetile.tensor import is_grad_enabled as is_grad_enabled
    from dovetile.tensor import no_grad as no_grad
    from dovetile.tensor.random import get_rng_state as get_rng_state
    from dovetile.tensor.random import host_generator as host_generator
    from dovetile.tensor.random import initial_seed as initial_seed
    from dovetile.tensor.random import manual_seed as manual_seed
    from dovetile.tensor.random import set_rng_state as set_rng_state
    from dovetile.tensor.tensor import grad as grad
    from dovetile.tensor.tensor import where as where

# Loaded when first asked for, so that `import dovetile` itself costs next to nothing.
_EXPORTS = {
    "Tensor": "dovetile.tensor",
    "enable_grad": "dovetile.tensor",
    "is_grad_enabled": "dovetile.tensor",
    "no_grad": "dovetile.tensor",
    "grad": "dovetile.tensor.tensor",
    "jit": "dovetile.capture",
    "where": "dovetile.tensor.tensor",
    "counters": "dovetile.runtime.counting",
    "get_rng_state": "dovetile.tensor.random",
    "host_generator": "dovetile.tensor.random",
    "initial_seed": "dovetile.tensor.random",
    "manual_seed": "dovetile.tensor.random",
    "set_rng_state": "dovetile.tensor.random",
}
# Class methods of Tensor that are also functions of the module, as in PyTorch.
_TENSOR_METHODS = (
    "arange", "cat", "einsum", "empty", "eye", "from_numpy", "full", "linspace", "normal", "ones",
    "rand", "randint", "randn", "randperm", "stack", "zeros",
)  # fmt: skip
_MODULES = ("dtypes", "environment", "errors")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = importlib.import_module(f"dovetile.{name}")
    elif name in _TENSOR_METHODS:
        value = getattr(importlib.import_module("dovetile.tensor").Tensor, name)
    elif name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
    else:
        raise AttributeError(f"module 'dovetile' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *_TENSOR_METHODS, *_MODULES})
