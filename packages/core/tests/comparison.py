"""Compares Tensor functions and their gradients with PyTorch's in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dovetile import Tensor


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def compare(
    function: Callable, *arrays: np.ndarray, torch_function: Callable | None = None,
    rtol: float = 1e-9, atol: float = 1e-9, gradients: bool = True,
) -> None:  # fmt: skip
    """`function` of Tensors must equal `torch_function` (default: the same) of torch tensors.

    Float arrays also get their gradients compared, for a fixed random cotangent.
    """
    torch = pytest.importorskip("torch")
    ours = [_leaf(Tensor(a), gradients) for a in arrays]
    theirs = [torch.tensor(a) for a in arrays]
    for tensor in theirs:
        tensor.requires_grad_(gradients and tensor.is_floating_point())
    result = function(*ours)
    expected = (torch_function or function)(*theirs)
    assert result.shape == tuple(expected.shape)
    assert result.dtype.name == str(expected.dtype).removeprefix("torch.")
    np.testing.assert_allclose(
        result.numpy(), expected.detach().numpy(), rtol=rtol, atol=atol, equal_nan=True
    )
    if gradients and expected.requires_grad:
        assert result.requires_grad
        cotangent = normal(*expected.shape, seed=7)
        result.backward(Tensor(cotangent).cast(result.dtype))
        expected.backward(torch.tensor(cotangent).to(expected.dtype))
        for ours_leaf, theirs_leaf in zip(ours, theirs):
            if theirs_leaf.grad is None:
                continue
            # Where nothing depends on a leaf, we leave None and PyTorch sometimes puts zeros.
            found = 0.0 if ours_leaf.grad is None else ours_leaf.grad.numpy()
            np.testing.assert_allclose(found, theirs_leaf.grad.numpy(), rtol=rtol, atol=atol)


def _leaf(tensor: Tensor, gradients: bool) -> Any:
    return tensor.requires_grad_() if gradients and tensor.dtype.is_float else tensor
