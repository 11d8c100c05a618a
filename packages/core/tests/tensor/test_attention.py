"""Attention against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from comparison import compare, normal

from dovetile import Tensor
from dovetile.errors import ArgumentError, ShapeError

pytestmark = pytest.mark.usefixtures("reference")

QUERY, KEY, VALUE = normal(2, 4, 5, 8), normal(2, 4, 6, 8, seed=1), normal(2, 4, 6, 3, seed=2)


def check(*arrays: np.ndarray, **options: Any) -> None:
    functional = pytest.importorskip("torch").nn.functional
    compare(
        lambda q, k, v: q.scaled_dot_product_attention(k, v, **options),
        *arrays,
        torch_function=lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, **options),
        rtol=1e-7,
    )


def test_plain_and_causal() -> None:
    check(QUERY, KEY, VALUE)
    check(QUERY, KEY, VALUE, is_causal=True)
    check(QUERY, KEY, VALUE, scale=0.3)
    check(QUERY[0, 0], KEY[0, 0], VALUE[0, 0])


def test_groups_of_query_heads() -> None:
    check(QUERY, KEY[:, :2], VALUE[:, :2], enable_gqa=True)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks(kind: str) -> None:
    torch = pytest.importorskip("torch")
    mask = normal(5, 6, seed=3)
    if kind == "bool":
        mask = mask < 0.5
        mask[:, 0] = True
    compare(
        lambda q, k, v: q.scaled_dot_product_attention(k, v, Tensor(mask)),
        QUERY,
        KEY,
        VALUE,
        torch_function=lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
            q, k, v, torch.tensor(mask)
        ),
        rtol=1e-7,
    )


def test_bad_input() -> None:
    query, key, value = (Tensor(a) for a in (QUERY, KEY, VALUE))
    with pytest.raises(ShapeError, match="the same last size"):
        query.scaled_dot_product_attention(value, value)
    with pytest.raises(ShapeError, match="at least 2 dims"):
        query.scaled_dot_product_attention(Tensor([1.0]), value)
    with pytest.raises(ShapeError, match="must be a multiple"):
        query[:, :3].scaled_dot_product_attention(key[:, :2], value[:, :2], enable_gqa=True)
    with pytest.raises(ArgumentError, match="give only one"):
        mask = Tensor(np.ones((5, 6), bool))
        query.scaled_dot_product_attention(key, value, mask, is_causal=True)
