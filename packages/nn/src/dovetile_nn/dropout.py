"""Dropout."""

from __future__ import annotations

from dovetile import Tensor
from dovetile.errors import ArgumentError
from dovetile_nn.module import Module


class Dropout(Module):
    """Zeroes elements with probability `p` in training and scales the rest by 1 / (1 - p).

    As `torch.nn.Dropout` (Srivastava et al., 2014); the identity in evaluation mode. Raises
    ArgumentError where `p` is outside [0, 1].
    """

    def __init__(self, p: float = 0.5):
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ArgumentError(f"[Dropout] p is {p}; it must be in [0, 1]")
        self.p = p

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.dropout(self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"
