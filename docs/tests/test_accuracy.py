"""The errors that docs/reference/accuracy.md states are not exceeded, and not stated too large."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dovetile import Tensor

torch = pytest.importorskip("torch")
PAGE = Path(__file__).parents[1] / "reference" / "accuracy.md"
ROWS = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
LIMIT = np.float32(3.4028235e38)


def samples() -> np.ndarray:
    """Every 4099th of all bit patterns, and dense samples where functions change most."""
    random = np.random.default_rng(3)
    patterns = np.arange(0, 1 << 32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    patterns = patterns[~np.isnan(patterns)]  # signalling ones among them
    dense = [
        random.standard_normal(1 << 16) * 3,
        random.uniform(-110, 110, 1 << 16),
        np.exp(random.standard_normal(1 << 16) * 0.1),
        random.uniform(-1, 1, 1 << 16),
        np.arange(-500, 500) * (np.pi / 2),
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45],
    ]
    return np.concatenate([patterns, *dense]).astype(np.float32)


def units(result: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors in units in the last place; infinite where one is NaN and the other is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(np.float32)
        unit = np.spacing(np.minimum(np.abs(rounded), LIMIT)).astype(np.float64)
        # A result one unit from overflow may overflow: infinity counts as the next number.
        finite = np.clip(result, -LIMIT, LIMIT).astype(np.float64)
        error = np.abs(finite - np.clip(exact, -float(LIMIT), float(LIMIT))) / unit
    error[np.isnan(result) & np.isnan(rounded)] = 0
    error[np.isnan(result) != np.isnan(rounded)] = np.inf
    return error


@pytest.mark.parametrize(("name", "stated"), ROWS)
def test_stated_errors(name: str, stated: str) -> None:
    if name == "pow":
        random = np.random.default_rng(4)
        x = np.exp(random.standard_normal(1 << 18) * 3).astype(np.float32)
        y = (random.standard_normal(1 << 18) * 8).astype(np.float32)
        exact = x.astype(np.float64) ** y.astype(np.float64)
        keep = (exact > 1e-30) & (exact < 1e30)
        result, exact = (Tensor(x[keep]) ** Tensor(y[keep])).numpy(), exact[keep]
    else:
        x = samples()
        x = x[~(x < -87)] if name == "sigmoid" else x
        exact = getattr(torch, name)(torch.from_numpy(x.astype(np.float64))).numpy()
        result = getattr(Tensor(x), name)().numpy()
    greatest = units(result, exact).max()
    assert float(stated) / 3 <= greatest <= float(stated)
