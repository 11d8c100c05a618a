"""More memory than there is: an error that says so, and everything else stays usable."""

from __future__ import annotations

import numpy as np
import pytest

from dovetile import Tensor
from dovetile.errors import OutOfMemoryError

HUGE = {
    "constant": lambda: Tensor.ones(1 << 42).contiguous().realize(),
    "beyond any address": lambda: Tensor.ones(1 << 60, 1 << 10).contiguous().realize(),
    "random": lambda: Tensor.rand(1 << 42).realize(),
    "broadcast": lambda: (Tensor.rand(1 << 21).reshape(-1, 1) + Tensor.rand(1 << 21)).realize(),
    "read": lambda: Tensor.zeros(1 << 44).numpy(),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_tensors(name):
    x = Tensor(np.arange(5.0))
    with pytest.raises(OutOfMemoryError, match=r"\[allocate\] \d+ bytes"):
        HUGE[name]()
    assert (x * 2).sum().item() == 20
    assert 0 <= Tensor.rand(3).sum().item() < 3


def test_a_huge_lazy_value_costs_nothing():
    assert Tensor.ones(1 << 50)[:7].sum().item() == 7


def test_several_random_tensors_at_once_after_one_that_nobody_kept():
    Tensor.rand(64)
    assert (Tensor.rand(8, 1) + Tensor.rand(8)).numpy().shape == (8, 8)
