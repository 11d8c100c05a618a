"""Pooling layers."""

from __future__ import annotations

from dovetile import Tensor
from dovetile_nn.convolution import pair
from dovetile_nn.module import Module


class _Pool2d(Module):
    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.kernel_size = pair(kernel_size)
        self.stride = self.kernel_size if stride is None else pair(stride)
        self.padding = pair(padding)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool2d(_Pool2d):
    """The largest value of each window, as `torch.nn.MaxPool2d`.

    inputs (N, C, H, W) -> (N, C, H', W'); `stride` is the kernel's size unless given.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.max_pool2d(self.kernel_size, stride=self.stride, padding=self.padding)


class AvgPool2d(_Pool2d):
    """The mean of each window, padding included, as `torch.nn.AvgPool2d`.

    inputs (N, C, H, W) -> (N, C, H', W'); `stride` is the kernel's size unless given.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.avg_pool2d(self.kernel_size, stride=self.stride, padding=self.padding)
