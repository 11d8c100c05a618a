"""Normalisation layers."""

from __future__ import annotations

from typing import Any

import numpy

from dovetile import Tensor, dtypes, no_grad
from dovetile.errors import ShapeError
from dovetile_nn import init
from dovetile_nn.module import Module


class _BatchNorm(Module):
    """Normalises each channel (dimension 1) over the batch and all positions.

    Ioffe & Szegedy, "Batch Normalization", 2015. In training mode the statistics are the batch's,
    and the running ones move by `momentum` towards them (towards the unbiased variance, as in
    PyTorch); `momentum=None` makes them a plain average of all batches. In evaluation mode the
    running statistics are used.
    """

    ranks: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        options = {"dtype": dtype, "device": device}
        self.weight = init.constant(num_features, value=1.0, **options) if affine else None
        self.bias = init.constant(num_features, value=0.0, **options) if affine else None
        # From arrays: memory at once, not constants of a graph that become memory later.
        first = {
            "running_mean": Tensor(numpy.zeros(num_features), dtype or dtypes.float32, device),
            "running_var": Tensor(numpy.ones(num_features), dtype or dtypes.float32, device),
            "num_batches_tracked": Tensor(numpy.zeros(()), dtypes.int64, device),
        }
        for name, value in first.items():
            self.register_buffer(name, value if track_running_stats else None)

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim not in self.ranks or inputs.shape[1] != self.num_features:
            expected = " or ".join(f"{rank}-d" for rank in self.ranks)
            raise ShapeError(
                f"[{type(self).__name__}] got inputs of shape {tuple(inputs.shape)}; expected "
                f"{expected} with {self.num_features} channels in dimension 1"
            )
        training = self.training or self.running_mean is None
        momentum: Any = self.momentum
        if self.training and self.num_batches_tracked is not None:
            with no_grad():
                self.num_batches_tracked.assign(self.num_batches_tracked + 1)
            if momentum is None:
                momentum = 1 / self.num_batches_tracked
        return inputs.batch_norm(
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=training,
            momentum=momentum,
            eps=self.eps,
        )

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L), as `torch.nn.BatchNorm1d`."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W), as `torch.nn.BatchNorm2d`."""

    ranks = (4,)


class LayerNorm(Module):
    """Normalises over the last dimensions, as `torch.nn.LayerNorm` (Ba et al., 2016).

    inputs (..., *normalized_shape) -> the same shape; weight and bias of `normalized_shape`.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        shape = (
            (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        )
        self.normalized_shape = shape
        self.eps = eps
        options = {"dtype": dtype, "device": device}
        affine = elementwise_affine
        self.weight = init.constant(*shape, value=1.0, **options) if affine else None
        self.bias = init.constant(*shape, value=0.0, **options) if affine and bias else None

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.layer_norm(self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"
