"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any

from dovetile import Tensor
from dovetile.errors import ArgumentError
from dovetile_nn import init
from dovetile_nn.module import Module


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """`value` for the height and the width."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class Conv2d(Module):
    """Two-dimensional convolution (cross-correlation), as `torch.nn.Conv2d` with zero padding.

    inputs (N, in_channels, H, W) -> (N, out_channels, H', W'); weight
    (out_channels, in_channels / groups, kernel height, kernel width), bias (out_channels,).
    Raises ArgumentError where `groups` does not divide both channel counts.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"[Conv2d] groups={groups} must divide in_channels={in_channels} "
                f"and out_channels={out_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(kernel_size)
        self.stride = pair(stride)
        self.padding = pair(padding)
        self.dilation = pair(dilation)
        self.groups = groups
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        options = {
            "bound": init.fan_in_bound(math.prod(shape[1:])),
            "dtype": dtype,
            "device": device,
        }
        self.weight = init.uniform(*shape, **options)
        self.bias = init.uniform(out_channels, **options) if bias else None

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.conv2d(
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
