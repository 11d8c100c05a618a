"""softmax, layer and batch normalisation, dropout, losses, as in torch.nn.functional."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from dovetile import dtypes
from dovetile.dtypes import Scalar
from dovetile.errors import ArgumentError, DTypeError, ShapeError
from dovetile.gradient.composed import compose
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.approximations import exponential
from dovetile.tensor.base import TensorBase, detached
from dovetile.tensor.matmul import Products
from dovetile.tensor.nodes import arrange, axis_of, broadcast, constant, iota, reduce_axes

if TYPE_CHECKING:
    from typing_extensions import Self


Loss = TypeVar("Loss", bound="Normalization")


class Normalization(Products):
    """Functions that normalise over axes, and losses."""

    __slots__ = ()

    # -- softmax -------------------------------------------------------------------------------

    def softmax(self, dim: int = -1) -> Self:
        """e**x / sum(e**x) along `dim`, without overflow."""
        return self._normalized_exponential("softmax", dim, _softmax)

    def log_softmax(self, dim: int = -1) -> Self:
        """x - log(sum(e**x)) along `dim`, without overflow or cancellation."""
        return self._normalized_exponential("log_softmax", dim, _log_softmax)

    def _normalized_exponential(self, name: str, dim: int, function) -> Self:
        axis = axis_of(name, dim, self.ndim)
        value = self._floating()
        if self.ndim == 0:
            return value.reshape(1)._normalized_exponential(name, 0, function).reshape(())
        if value.dtype in dtypes.SMALL_FLOATS:
            wide = value.float()._normalized_exponential(name, dim, function)
            return wide.cast(value.dtype)
        if self.shape[axis] == 0:
            return value
        return value._wrap(function(value.uop, axis))

    # -- normalisation -------------------------------------------------------------------------

    def layer_norm(
        self,
        normalized_shape: int | Sequence[int],
        weight: TensorBase | None = None,
        bias: TensorBase | None = None,
        eps: float = 1e-5,
    ) -> Self:
        """(x - mean) / sqrt(var + eps) over the last axes, which must be normalized_shape."""
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        sizes = tuple(sizes)
        if self.shape[self.ndim - len(sizes) :] != sizes or not sizes:
            raise ShapeError(f"[layer_norm] shape {self.shape}; its last sizes must be {sizes}")
        axes = tuple(range(self.ndim - len(sizes), self.ndim))
        result = self._standardized(axes, eps)
        result = result if weight is None else result * weight
        return result if bias is None else result + bias

    def rms_norm(
        self,
        normalized_shape: int | Sequence[int],
        weight: TensorBase | None = None,
        eps: float = 1e-5,
    ) -> Self:
        """x / sqrt(mean(x**2) + eps) over the last axes, which must be normalized_shape."""
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        if self.shape[self.ndim - len(tuple(sizes)) :] != tuple(sizes):
            raise ShapeError(f"[rms_norm] shape {self.shape}; its last sizes must be {sizes}")
        axes = tuple(range(self.ndim - len(tuple(sizes)), self.ndim))
        result = self * ((self * self).mean(axes, keepdim=True) + eps).rsqrt()
        return result if weight is None else result * weight

    def group_norm(
        self,
        num_groups: int,
        weight: TensorBase | None = None,
        bias: TensorBase | None = None,
        eps: float = 1e-5,
    ) -> Self:
        """Standardised over each group of channels (axis 1) and all positions."""
        if self.ndim < 2 or num_groups < 1 or self.shape[1] % num_groups:
            raise ShapeError(
                f"[group_norm] shape {self.shape} in {num_groups} groups; the groups must divide "
                "the size of dim 1"
            )
        grouped = self.reshape((self.shape[0], num_groups, -1))
        return grouped._standardized((2,), eps).reshape(self.shape)._scaled(weight, bias)

    def batch_norm(
        self,
        running_mean: TensorBase | None,
        running_var: TensorBase | None,
        weight: TensorBase | None = None,
        bias: TensorBase | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Self:
        """Standardised over all axes but channels (axis 1).

        training: by the batch's own statistics, and the running ones (when given) move towards
        them by `momentum`; otherwise by the running ones.
        """
        if self.ndim < 2:
            raise ShapeError(f"[batch_norm] shape {self.shape}; it must be (batch, channels, ...)")
        axes = (0, *range(2, self.ndim))
        if not training:
            if running_mean is None or running_var is None:
                raise ArgumentError(
                    "[batch_norm] no running statistics; they must be given unless training"
                )
            shift = self - self._of_channels(running_mean)
            result = shift * (self._of_channels(running_var) + eps).rsqrt()
            return result._scaled(weight, bias)
        mean = self.mean(axes, keepdim=True)
        deviation = self - mean
        var = (deviation * deviation).mean(axes, keepdim=True)
        count = self.uop.size // max(self.shape[1], 1)
        if count < 2:
            raise ShapeError(
                f"[batch_norm] shape {self.shape}; training needs more than one value per channel"
            )
        if running_mean is not None:
            _move(running_mean, mean.reshape(-1), momentum)
        if running_var is not None:
            _move(running_var, var.reshape(-1) * (count / (count - 1)), momentum)
        return (deviation * (var + eps).rsqrt())._scaled(weight, bias)

    def _standardized(self, axes: tuple[int, ...], eps: float) -> Self:
        if self.dtype in dtypes.SMALL_FLOATS:
            return self.float()._standardized(axes, eps).cast(self.dtype)
        deviation = self - self.mean(axes, keepdim=True)
        var = (deviation * deviation).mean(axes, keepdim=True)
        return deviation * (var + eps).rsqrt()

    def _of_channels(self, vector: TensorBase) -> Self:
        """A vector over axis 1, shaped to broadcast with this tensor."""
        shape = (self.shape[1],) + (1,) * (self.ndim - 2)
        if vector.shape != (self.shape[1],):
            raise ShapeError(f"[norm] vector of shape {vector.shape} for {self.shape[1]} channels")
        return self._new(vector.uop.reshape(shape), vector.requires_grad)

    def _scaled(self, weight: TensorBase | None, bias: TensorBase | None) -> Self:
        result = self if weight is None else self * self._of_channels(weight)
        return result if bias is None else result + self._of_channels(bias)

    def normalize(self, p: Scalar = 2, dim: int = 1, eps: float = 1e-12) -> Self:
        """Divided by its p-norm along `dim`."""
        return self / self.norm(p, dim, keepdim=True).clamp(min=eps)

    def dropout(self, p: float = 0.5, training: bool = True) -> Self:
        """Elements set to 0 with probability p, the others divided by 1 - p; for training."""
        if not 0 <= p <= 1:
            raise ArgumentError(f"[dropout] p {p}; it must lie in [0, 1]")
        if not training or p == 0:
            return self
        if p == 1:
            return self * 0.0
        kept = self.rand_like(dtype=dtypes.float32) >= p  # type: ignore[attr-defined]
        return (self * (1 / (1 - p))).masked_fill(~kept, 0.0)

    # -- losses --------------------------------------------------------------------------------

    def cross_entropy(
        self,
        target: TensorBase,
        weight: TensorBase | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Self:
        """-log_softmax(self, 1)[target]: self is (C), (B, C) or (B, C, ...) logits.

        target: class indices without the class axis, or probabilities of self's shape.
        """
        axis = 0 if self.ndim == 1 else 1
        logs = self.log_softmax(axis)
        if target.dtype.kind == "f":
            if target.shape != self.shape:
                raise ShapeError(
                    f"[cross_entropy] probabilities of shape {target.shape} for logits "
                    f"{self.shape}; they must be equal"
                )
            wanted = self._new(target.uop, target.requires_grad)
            if label_smoothing:
                wanted = wanted * (1 - label_smoothing) + label_smoothing / self.shape[axis]
            if weight is not None:
                wanted = wanted * _weights(self, weight, axis)
            loss = -(logs * wanted).sum(axis)
            if reduction == "mean":
                return loss.sum() / max(loss.uop.size, 1)
            return _reduced(loss, reduction)
        if not label_smoothing:
            return logs.nll_loss(target, weight, ignore_index, reduction)
        sharp = logs.nll_loss(target, weight, ignore_index, "none")
        valid = self._new(target.uop.ne(ignore_index)).cast(self.dtype)
        spread = -(logs if weight is None else logs * _weights(self, weight, axis)).sum(axis)
        loss = sharp * (1 - label_smoothing) + spread * valid * (label_smoothing / self.shape[axis])
        if reduction == "mean":
            return loss.sum() / _picked_weights(self, target, weight, ignore_index, axis).sum()
        return _reduced(loss, reduction)

    def nll_loss(
        self,
        target: TensorBase,
        weight: TensorBase | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> Self:
        """-self[target] along the class axis, for log-probabilities."""
        axis = 0 if self.ndim == 1 else 1
        if target.dtype.kind not in "ui":
            raise DTypeError(
                f"[nll_loss] target of dtype {target.dtype.name}; class indices must be integers"
            )
        expected = self.shape[:axis] + self.shape[axis + 1 :]
        if target.shape != expected:
            raise ShapeError(
                f"[nll_loss] target of shape {target.shape} for input {self.shape}; it must be "
                f"{expected}"
            )
        classes = self._new(target.uop)
        valid = classes.ne(ignore_index)
        safe = classes.masked_fill(~valid, 0)
        picked = self.gather(axis, safe.unsqueeze(axis)).squeeze(axis)  # type: ignore[attr-defined]
        loss = (-picked).masked_fill(~valid, 0.0)
        weights = None
        if weight is not None:
            weights = _picked_weights(self, target, weight, ignore_index, axis)
            loss = loss * weights
        if reduction == "mean":
            total = valid.cast(self.dtype).sum() if weights is None else weights.sum()
            return loss.sum() / total
        return _reduced(loss, reduction)

    def mse_loss(self, target: TensorBase, reduction: str = "mean") -> Self:
        difference = self - target
        return _reduced(difference * difference, reduction)

    def l1_loss(self, target: TensorBase, reduction: str = "mean") -> Self:
        return _reduced((self - target).abs(), reduction)

    def smooth_l1_loss(
        self, target: TensorBase, reduction: str = "mean", beta: float = 1.0
    ) -> Self:
        size = (self - target).abs()
        if beta == 0:
            return _reduced(size, reduction)
        loss = (size * size * (0.5 / beta)).where(size < beta, size - 0.5 * beta)
        return _reduced(loss, reduction)

    def huber_loss(self, target: TensorBase, reduction: str = "mean", delta: float = 1.0) -> Self:
        return self.smooth_l1_loss(target, reduction, delta) * delta

    def binary_cross_entropy(
        self, target: TensorBase, weight: TensorBase | None = None, reduction: str = "mean"
    ) -> Self:
        """For probabilities; logarithms are limited to -100 as in PyTorch."""
        yes, no = self.log().clamp(min=-100), (1 - self).log().clamp(min=-100)
        wanted = self._new(target.uop)
        loss = -(wanted * yes + (1 - wanted) * no)
        return _reduced(loss if weight is None else loss * weight, reduction)

    def binary_cross_entropy_with_logits(
        self,
        target: TensorBase,
        weight: TensorBase | None = None,
        reduction: str = "mean",
        pos_weight: TensorBase | None = None,
    ) -> Self:
        wanted = self._new(target.uop)
        no, yes = self.softplus(), (-self).softplus()
        if pos_weight is not None:
            yes = yes * pos_weight
        loss = wanted * yes + (1 - wanted) * no
        return _reduced(loss if weight is None else loss * weight, reduction)


def _softmax(x: UOp, axis: int) -> UOp:
    top = detached(broadcast(_kept(x, Op.MAX, axis), x.shape))
    grown = exponential(x + top * -1)
    total = _kept(grown, Op.ADD, axis)
    # One division for a row instead of one for each element; it costs half a unit of precision.
    share = broadcast(constant(1.0, total.dtype, total.shape) / total, x.shape)

    def gradient(y: UOp, inputs: tuple[UOp, ...], g: UOp) -> tuple[UOp]:
        inner = broadcast(_kept(g * y, Op.ADD, axis), y.shape)
        return (y * (g + inner * -1),)

    return compose(grown * share, (x,), gradient)


def _log_softmax(x: UOp, axis: int) -> UOp:
    top = detached(broadcast(_kept(x, Op.MAX, axis), x.shape))
    shifted = x + top * -1
    total = _kept(exponential(shifted), Op.ADD, axis)
    logs = total.alu(Op.LOG2) * math.log(2)

    def gradient(y: UOp, inputs: tuple[UOp, ...], g: UOp) -> tuple[UOp]:
        inner = broadcast(_kept(g, Op.ADD, axis), y.shape)
        return (g + exponential(y) * inner * -1,)

    return compose(shifted + broadcast(logs, x.shape) * -1, (x,), gradient)


def _kept(x: UOp, op: Op, axis: int) -> UOp:
    shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    return reduce_axes(x, op, (axis,)).reshape(shape)


def _move(running: TensorBase, batch: TensorBase, momentum: float) -> None:
    """running = (1 - momentum) * running + momentum * batch, in its memory."""
    new = running.detach() * (1 - momentum) + batch.detach() * momentum  # type: ignore[operator]
    running.assign(new)  # type: ignore[attr-defined]


def _weights(like: Loss, weight: TensorBase, axis: int) -> Loss:
    """Class weights, repeated to the shape of the logits."""
    if weight.shape != (like.shape[axis],):
        raise ShapeError(
            f"[nll_loss] weight of shape {weight.shape}; there must be one per class "
            f"({like.shape[axis]})"
        )
    return like._new(arrange(weight.uop, [axis], like.shape))


def _picked_weights(
    like: Loss, target: TensorBase, weight: TensorBase | None, ignore_index: int, axis: int
) -> Loss:
    """The weight of every target, 0 where it is ignored."""
    classes = like._new(target.uop)
    valid = classes.ne(ignore_index)
    if weight is None:
        return valid.cast(like.dtype)
    chosen = like._new(arrange(iota(like.shape[axis]).cast(target.dtype), [axis], like.shape))
    hit = chosen.eq(classes.unsqueeze(axis)) & valid.unsqueeze(axis)
    return _weights(like, weight, axis).masked_fill(~hit, 0.0).sum(axis)


def _reduced(loss: Loss, reduction: str) -> Loss:
    if reduction == "none":
        return loss
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    raise ArgumentError(f"[loss] reduction {reduction!r}; valid are 'mean', 'sum' and 'none'")
