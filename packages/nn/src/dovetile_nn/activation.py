"""Activations as modules, for use in `Sequential`."""

from __future__ import annotations

from dovetile import Tensor
from dovetile_nn.module import Module


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.relu()


class GELU(Module):
    """x times the normal distribution's cumulative function (Hendrycks & Gimpel, 2016).

    `approximate` is "none" or "tanh", as in PyTorch.
    """

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.gelu(approximate=self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """x * sigmoid(x)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.silu()


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.sigmoid()


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.tanh()


class Flatten(Module):
    """Joins the dimensions from `start_dim` to `end_dim` into one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """Its input, unchanged."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs
