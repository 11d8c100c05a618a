"""Normalisation layers."""

from __future__ import annotations

from typing import Any

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
        running = track_running_stats
        self.register_buffer(
            "running_mean", Tensor.zeros(num_features, **options) if running else None
        )
        self.register_buffer(
            "running_var", Tensor.ones(num_features, **options) if running else None
        )
        batches = Tensor(0, dtype=dtypes.int64, device=device) if running else None
        self.register_buffer("num_batches_tracked", batches)

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
        channel = [1, self.num_features, *[1] * (inputs.ndim - 2)]
        if self.training or self.running_mean is None or self.running_var is None:
            others = tuple(axis for axis in range(inputs.ndim) if axis != 1)
            mean = inputs.mean(others)
            centred = inputs - mean.reshape(channel)
            variance = (centred * centred).mean(others)
            if self.training and self.running_mean is not None:
                self._track(mean.detach(), variance.detach(), inputs.numel() // self.num_features)
        else:
            centred = inputs - self.running_mean.reshape(channel)
            variance = self.running_var
        outputs = centred * (variance + self.eps).rsqrt().reshape(channel)
        if self.weight is not None and self.bias is not None:
            outputs = outputs * self.weight.reshape(channel) + self.bias.reshape(channel)
        return outputs

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        if count < 2:
            raise ShapeError(
                f"[{type(self).__name__}] a batch with one value for each channel has no variance; "
                "train with more, or call eval()"
            )
        with no_grad():
            self.num_batches_tracked.assign(self.num_batches_tracked + 1)
            share = self.momentum
            if share is None:
                share = 1 / self.num_batches_tracked.cast(mean.dtype)
            unbiased = variance * (count / (count - 1))
            self.running_mean.assign((1 - share) * self.running_mean + share * mean)
            self.running_var.assign((1 - share) * self.running_var + share * unbiased)

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
