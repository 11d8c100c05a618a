"""Linear layers."""

from __future__ import annotations

from typing import Any

from dovetile import Tensor
from dovetile_nn import init
from dovetile_nn.module import Module


class Linear(Module):
    """`inputs @ weight.T + bias`, as `torch.nn.Linear`.

    inputs (..., in_features) -> (..., out_features); weight (out_features, in_features),
    bias (out_features,).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        bound = init.fan_in_bound(in_features)
        options = {"bound": bound, "dtype": dtype, "device": device}
        self.weight = init.uniform(out_features, in_features, **options)
        self.bias = init.uniform(out_features, **options) if bias else None

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.linear(self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
