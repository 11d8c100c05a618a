"""Fixtures of this package's tests."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def torch() -> Any:
    """PyTorch; a test that compares with it is skipped where it is not installed."""
    return pytest.importorskip("torch")
