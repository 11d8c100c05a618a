"""8-bit floats through Tensor: casts, sums, and products."""

from __future__ import annotations

import numpy as np
import pytest

from dovetile import Tensor, dtypes
from dovetile.dtypes import DType

float8 = pytest.mark.parametrize("dtype", dtypes.FLOAT8, ids=lambda d: d.name)


def numbers(dtype: DType, *shape: int) -> tuple[Tensor, np.ndarray]:
    held = np.random.default_rng(0).standard_normal(shape).astype(dtypes.to_numpy(dtype))
    return Tensor(held), held.astype(np.float32)


@float8
def test_products_are_summed_up_in_float32(dtype: DType) -> None:
    (a, wide_a), (b, wide_b) = numbers(dtype, 32, 64), numbers(dtype, 64, 16)
    exact = wide_a @ wide_b
    np.testing.assert_allclose((a.float() @ b.float()).numpy(), exact, rtol=1e-5, atol=1e-5)
    narrow = a @ b
    assert narrow.dtype is dtype
    np.testing.assert_allclose(narrow.float().numpy(), exact, rtol=0.13, atol=0.13)


@float8
def test_reductions(dtype: DType) -> None:
    """A maximum begins with the least number there is: e4m3 has no infinity."""
    x, wide = numbers(dtype, 100, 3)
    assert float(x.max().float().numpy()) == wide.max()
    assert float(x.min().float().numpy()) == wide.min()
    np.testing.assert_allclose(x.float().sum(0).numpy(), wide.sum(0), rtol=1e-5)


def test_what_is_too_large() -> None:
    x = Tensor(np.float32([464, 465, -1e9, 61440, np.inf]))
    np.testing.assert_array_equal(
        x.cast(dtypes.float8_e4m3fn).float().numpy(), [448, np.nan, np.nan, np.nan, np.nan]
    )
    np.testing.assert_array_equal(
        x.cast(dtypes.float8_e5m2).float().numpy(), [448, 448, -np.inf, np.inf, np.inf]
    )
