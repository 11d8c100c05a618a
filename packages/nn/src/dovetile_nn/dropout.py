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
        if not self.training or self.p == 0.0:
            return inputs
        if self.p == 1.0:
            return inputs * 0.0
        kept = Tensor.rand(*inputs.shape, device=inputs.device) >= self.p
        return kept.where(inputs * (1 / (1 - self.p)), 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"
