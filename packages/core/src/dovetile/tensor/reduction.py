"""Reductions over any axes, and what is made of them: mean, variance, argmax, cumulative sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.errors import ArgumentError, DTypeError, ShapeError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.functions import Functions
from dovetile.tensor.nodes import arrange, axes_of, axis_of, broadcast, constant, iota, reduce_axes

if TYPE_CHECKING:
    from typing_extensions import Self

Dim = int | Sequence[int] | None
# Longer axes are summed up in blocks of this size, and the blocks' totals again.
_CUMULATIVE_BLOCK = 64


class Reduction(Functions):
    """Reductions. `dim` is one axis, several, or None for all; keepdim leaves them with size 1."""

    __slots__ = ()

    def _reduce(self, node: UOp, op: Op, axes: Sequence[int], keepdim: bool) -> UOp:
        shape = node.shape
        node = reduce_axes(node, op, axes)
        if keepdim:
            node = node.reshape(tuple(1 if i in axes else n for i, n in enumerate(shape)))
        return node

    def sum(self, dim: Dim = None, keepdim: bool = False, dtype: DType | None = None) -> Self:
        """The sum, of integers and bools as int64; small floats add up in float32."""
        axes = axes_of("sum", dim, self.ndim)
        if dtype is None:
            dtype = self.dtype if self.dtype.kind == "f" else dtypes.int64
        inner = dtypes.float32 if dtype in dtypes.SMALL_FLOATS else dtype
        node = self._reduce(self.uop.cast(inner), Op.ADD, axes, keepdim)
        return self._wrap(node.cast(dtype))

    def prod(self, dim: Dim = None, keepdim: bool = False, dtype: DType | None = None) -> Self:
        """The product, of integers and bools as int64."""
        axes = axes_of("prod", dim, self.ndim)
        if dtype is None:
            dtype = self.dtype if self.dtype.kind == "f" else dtypes.int64
        inner = dtypes.float32 if dtype in dtypes.SMALL_FLOATS else dtype
        node = self._reduce(self.uop.cast(inner), Op.MUL, axes, keepdim)
        return self._wrap(node.cast(dtype))

    def mean(self, dim: Dim = None, keepdim: bool = False) -> Self:
        """The arithmetic mean; NaN of no elements. Raises DTypeError for integers."""
        if self.dtype.kind != "f":
            raise DTypeError(f"[mean] dtype {self.dtype.name}; it must be a float (see .float())")
        axes = axes_of("mean", dim, self.ndim)
        size = math.prod(self.shape[axis] for axis in axes)
        inner = dtypes.float32 if self.dtype in dtypes.SMALL_FLOATS else self.dtype
        total = self._reduce(self.uop.cast(inner), Op.ADD, axes, keepdim)
        node = total * (1 / size) if size else total * math.nan
        return self._wrap(node.cast(self.dtype))

    def var(self, dim: Dim = None, correction: int = 1, keepdim: bool = False) -> Self:
        """Sum of squared deviations from the mean over (number of elements - correction)."""
        axes = axes_of("var", dim, self.ndim)
        size = math.prod(self.shape[axis] for axis in axes)
        deviation = self - self.mean(axes, keepdim=True)
        total = (deviation * deviation).sum(axes, keepdim)
        if size <= correction:
            return total * (math.nan if size - correction == 0 or not size else math.inf)
        return total * (1 / (size - correction))

    def std(self, dim: Dim = None, correction: int = 1, keepdim: bool = False) -> Self:
        return self.var(dim, correction, keepdim).sqrt()

    def var_mean(
        self, dim: Dim = None, correction: int = 1, keepdim: bool = False
    ) -> tuple[Self, Self]:
        return self.var(dim, correction, keepdim), self.mean(dim, keepdim)

    # -- extremes ------------------------------------------------------------------------------

    def _extreme(self, op: Op, name: str, dim: Dim, keepdim: bool) -> Self:
        axes = axes_of(name, dim, self.ndim)
        if any(self.shape[axis] == 0 for axis in axes):
            raise ShapeError(
                f"[{name}] shape {self.shape} over dim {dim}; nothing to choose from, the reduced "
                "dims must not be empty"
            )
        return self._wrap(self._reduce(self.uop, op, axes, keepdim))

    def amax(self, dim: Dim = None, keepdim: bool = False) -> Self:
        """The greatest values; equal ones share the gradient evenly."""
        return self._extreme(Op.MAX, "amax", dim, keepdim)

    def amin(self, dim: Dim = None, keepdim: bool = False) -> Self:
        """The least values; equal ones share the gradient evenly."""
        return self._extreme(Op.MIN, "amin", dim, keepdim)

    def max(self, dim: int | None = None, keepdim: bool = False) -> Self | tuple[Self, Self]:
        """The greatest value; with `dim`, (values, indices) along it, as in PyTorch.

        Equal values share the gradient evenly (PyTorch gives it to the first along `dim`).
        """
        if dim is None:
            return self._extreme(Op.MAX, "max", None, keepdim)
        return self._extreme(Op.MAX, "max", dim, keepdim), self.argmax(dim, keepdim)

    def min(self, dim: int | None = None, keepdim: bool = False) -> Self | tuple[Self, Self]:
        """The least value; with `dim`, (values, indices) along it, as in PyTorch."""
        if dim is None:
            return self._extreme(Op.MIN, "min", None, keepdim)
        return self._extreme(Op.MIN, "min", dim, keepdim), self.argmin(dim, keepdim)

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Self:
        """Position (int64) of the first greatest value; NaN counts as greatest."""
        return self._position(Op.MAX, "argmax", dim, keepdim)

    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Self:
        """Position (int64) of the first least value; NaN counts as least."""
        return self._position(Op.MIN, "argmin", dim, keepdim)

    def _position(self, op: Op, name: str, dim: int | None, keepdim: bool) -> Self:
        if dim is None:
            flat = self.reshape(-1)._position(op, name, 0, False)
            return flat.reshape((1,) * self.ndim) if keepdim else flat
        axis = axis_of(name, dim, self.ndim)
        if self.ndim == 0:
            return self._new(constant(0, dtypes.int64))
        x = self.uop
        best = self._extreme(op, name, axis, True).uop
        found = x.eq(broadcast(best, self.shape))
        if self.dtype.kind == "f":
            found = found | x.ne(x)
        size = self.shape[axis]
        place = arrange(iota(size).cast(dtypes.int64), [axis], self.shape)
        candidates = found.where(place, constant(size, dtypes.int64, self.shape))
        return self._new(self._reduce(candidates, Op.MIN, (axis,), keepdim))

    def all(self, dim: Dim = None, keepdim: bool = False) -> Self:
        """Whether every element is true (not 0)."""
        axes = axes_of("all", dim, self.ndim)
        truth = self.uop.cast(dtypes.bool_)
        return self._new(self._reduce(truth, Op.MIN, axes, keepdim))

    def any(self, dim: Dim = None, keepdim: bool = False) -> Self:
        """Whether some element is true (not 0)."""
        axes = axes_of("any", dim, self.ndim)
        truth = self.uop.cast(dtypes.bool_)
        return self._new(self._reduce(truth, Op.MAX, axes, keepdim))

    def count_nonzero(self, dim: Dim = None) -> Self:
        return self.ne(0).sum(dim)

    def norm(self, p: Scalar | str = 2, dim: Dim = None, keepdim: bool = False) -> Self:
        """The vector p-norm over `dim`: sum(|x|**p)**(1/p), p = inf: the greatest |x|."""
        if p in (2, 2.0, "fro"):
            return (self * self).sum(dim, keepdim).sqrt()
        if isinstance(p, str):
            raise ArgumentError(f"[norm] p {p!r}; it must be a number or 'fro'")
        if p == math.inf:
            return self.abs().amax(dim, keepdim)
        if p == -math.inf:
            return self.abs().amin(dim, keepdim)
        if p == 0:
            return self.ne(0).cast(self.dtype).sum(dim, keepdim)
        if p == 1:
            return self.abs().sum(dim, keepdim)
        return self.abs().pow(p).sum(dim, keepdim).pow(1 / p)

    def logsumexp(self, dim: Dim, keepdim: bool = False) -> Self:
        """log(sum(e**x)) without overflow."""
        axes = axes_of("logsumexp", dim, self.ndim)
        top = self.amax(axes, keepdim=True).detach()
        top = top.masked_fill(top.abs().eq(math.inf), 0.0)
        total = (self - top).exp().sum(axes, keepdim=True).log() + top
        return total if keepdim else total.squeeze(axes)

    # -- cumulative ----------------------------------------------------------------------------

    def cumsum(self, dim: int, dtype: DType | None = None) -> Self:
        """The sums of all elements up to and including each along `dim`."""
        axis = axis_of("cumsum", dim, self.ndim)
        if dtype is None:
            dtype = self.dtype if self.dtype.kind == "f" else dtypes.int64
        inner = dtypes.float32 if dtype in dtypes.SMALL_FLOATS else dtype
        value = self.cast(inner)
        if self.ndim:
            order = [*(i for i in range(self.ndim) if i != axis), axis]
            value = value.permute(order)._cumulative()
            value = value.permute([order.index(i) for i in range(self.ndim)])
        return value.cast(dtype)

    def _cumulative(self) -> Self:
        """Cumulative sums along the last axis: each of a block a masked sum, blocks recursively."""
        *head, size = self.shape
        if size <= _CUMULATIVE_BLOCK:
            upto = iota(size).expand((size,)) < arrange(iota(size), [1], (size, size))
            upto = upto.logical_not()  # [i, j]: j <= i
            full = (*head, size, size)
            kept = self._new(arrange(upto, [len(head), len(head) + 1], full))
            spread = self.unsqueeze(-2).expand(full)
            return spread.masked_fill(~kept, 0).sum(-1, dtype=self.dtype)
        blocks = -(-size // _CUMULATIVE_BLOCK)
        padded = self.pad((0, blocks * _CUMULATIVE_BLOCK - size))
        inside = padded.reshape((*head, blocks, _CUMULATIVE_BLOCK))._cumulative()
        totals = inside.narrow(-1, _CUMULATIVE_BLOCK - 1, 1).squeeze(-1)._cumulative()
        before = totals.pad((1, -1)).unsqueeze(-1)
        return (inside + before).reshape((*head, -1)).narrow(-1, 0, size)
