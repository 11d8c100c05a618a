"""What a network needs of a framework, beyond the methods that all their tensors have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Framework:
    """Dovetile's or PyTorch's names for the same things.

    Args:
        nn: the module of layers.
        ones: makes a trained vector of ones of a size.
        attention: scaled dot-product attention of queries, keys, values and options.
    """

    nn: Any
    ones: Callable[[int], Any]
    attention: Callable[..., Any]
