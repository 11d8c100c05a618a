"""Convolution and pooling over 1, 2 or 3 spatial axes.

Windows are not copied: an INDEX addresses the input by positions that are affine in two IOTAs
(output place * stride + window place * dilation), and the scheduler computes through it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.dtypes import Scalar
from dovetile.errors import ArgumentError, ShapeError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.base import TensorBase, same_device
from dovetile.tensor.matmul import contract
from dovetile.tensor.nodes import arrange, constant, iota
from dovetile.tensor.normalization import Normalization

if TYPE_CHECKING:
    from typing_extensions import Self

Sizes = int | Sequence[int]


def _tuple(op: str, name: str, value: Sizes, rank: int, minimum: int) -> tuple[int, ...]:
    result = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(result) == 1:
        result = result * rank
    if len(result) != rank or any(v < minimum for v in result):
        raise ArgumentError(
            f"[{op}] {name} {value}; it must be one int or {rank}, each at least {minimum}"
        )
    return result


def windows(
    x: UOp, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[UOp, list[int], list[int], list[int]]:
    """The windows over the last len(kernel) axes of `x`, where those are not plain axes.

    Returns (node, lead, out, inner): the node's axes in any order, and in it the places of x's
    leading axes, of the output's spatial axes and of the window's axes.
    """
    rank, lead = len(kernel), len(x.shape) - len(kernel)
    sizes = x.shape[lead:]
    outs = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(sizes, kernel, stride, dilation)]
    if all(k == s and d == 1 or k == 1 == s for k, s, d in zip(kernel, stride, dilation)):
        # Windows side by side: splitting the axis is enough.
        kept = x.shrink(
            (*((0, n) for n in x.shape[:lead]), *((0, o * k) for o, k in zip(outs, kernel)))
        )
        split = [size for pair in zip(outs, kernel) for size in pair]
        node = kept.reshape((*x.shape[:lead], *split))
        places = range(lead, lead + 2 * rank)
        return node, list(range(lead)), list(places[::2]), list(places[1::2])
    shape = tuple(size for pair in zip(outs, kernel) for size in pair)
    index = []
    for axis, (out, k, s, d) in enumerate(zip(outs, kernel, stride, dilation)):
        first = iota(out) if s == 1 else iota(out) * s
        within = iota(k) if d == 1 else iota(k) * d
        position = arrange(first, [0], (out, k)) + arrange(within, [1], (out, k))
        index.append(arrange(position, [2 * axis, 2 * axis + 1], shape))
    order = (*range(lead, lead + rank), *range(lead))
    node = UOp(Op.INDEX, x.dtype, (x.permute(order), *index))
    spatial = range(2 * rank)
    return node, [2 * rank + i for i in range(lead)], list(spatial[::2]), list(spatial[1::2])


class Convolution(Normalization):
    """Convolutions (cross-correlations, as in PyTorch) and pooling."""

    __slots__ = ()

    def conv1d(
        self, weight: TensorBase, bias: TensorBase | None = None, stride: Sizes = 1,
        padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1,
    ) -> Self:  # fmt: skip
        """See :meth:`conv2d`; one spatial axis."""
        return self._convolve("conv1d", 1, weight, bias, stride, padding, dilation, groups)

    def conv2d(
        self, weight: TensorBase, bias: TensorBase | None = None, stride: Sizes = 1,
        padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1,
    ) -> Self:  # fmt: skip
        """Input (B, C, H, W) or (C, H, W), weight (O, C / groups, KH, KW) -> (B, O, OH, OW).

        padding: zeros on both sides, or "valid" (none) or "same" (stride 1: output size = input
        size). Raises ShapeError where channels or sizes do not fit.
        """
        return self._convolve("conv2d", 2, weight, bias, stride, padding, dilation, groups)

    def conv3d(
        self, weight: TensorBase, bias: TensorBase | None = None, stride: Sizes = 1,
        padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1,
    ) -> Self:  # fmt: skip
        """See :meth:`conv2d`; three spatial axes."""
        return self._convolve("conv3d", 3, weight, bias, stride, padding, dilation, groups)

    def _convolve(
        self, op: str, rank: int, weight: TensorBase, bias: TensorBase | None, stride: Sizes,
        padding: Sizes | str, dilation: Sizes, groups: int,
    ) -> Self:  # fmt: skip
        if self.ndim == rank + 1:
            single = self.unsqueeze(0)._convolve(
                op, rank, weight, bias, stride, padding, dilation, groups
            )
            return single.squeeze(0)
        self._check_weight(op, rank, weight, groups, weight.shape[1:2], groups)
        strides = _tuple(op, "stride", stride, rank, 1)
        dilations = _tuple(op, "dilation", dilation, rank, 1)
        kernel = weight.shape[2:]
        amounts = _padding(op, padding, kernel, strides, dilations)
        padded = [n + b + a for n, (b, a) in zip(self.shape[2:], amounts)]
        if any(n < d * (k - 1) + 1 for n, k, d in zip(padded, kernel, dilations)):
            raise ShapeError(
                f"[{op}] window {kernel} with dilation {dilations} on padded size {tuple(padded)}; "
                "it must fit"
            )
        dtype = dtypes.promote(self.dtype, weight.dtype)
        x = self.uop.cast(dtype).pad(((0, 0), (0, 0), *amounts))
        result = self._wrap(
            _correlate(x, weight.uop.cast(dtype), strides, dilations, groups), weight
        )
        return result if bias is None else result + result._of_channels(bias)

    def _check_weight(
        self, op: str, rank: int, weight: TensorBase, groups: int, channels: Sequence[int],
        factor: int,
    ) -> None:  # fmt: skip
        if self.ndim != rank + 2 or weight.ndim != rank + 2:
            raise ShapeError(
                f"[{op}] input {self.shape}, weight {weight.shape}; both must have {rank + 2} dims "
                f"(input also {rank + 1})"
            )
        same_device(op, self, weight)
        if groups < 1 or weight.shape[0] % groups or self.shape[1] != channels[0] * factor:
            raise ShapeError(
                f"[{op}] input {self.shape}, weight {weight.shape}, groups {groups}; the input "
                f"needs {channels[0] * factor} channels in equal groups"
            )

    # -- transposed ----------------------------------------------------------------------------

    def conv_transpose1d(
        self, weight: TensorBase, bias: TensorBase | None = None, stride: Sizes = 1,
        padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1,
    ) -> Self:  # fmt: skip
        """See :meth:`conv_transpose2d`; one spatial axis."""
        return self._transposed(
            "conv_transpose1d", 1, weight, bias, stride, padding, output_padding, groups, dilation
        )

    def conv_transpose2d(
        self, weight: TensorBase, bias: TensorBase | None = None, stride: Sizes = 1,
        padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1,
    ) -> Self:  # fmt: skip
        """The adjoint of conv2d: (B, C, H, W) by weight (C, O / groups, KH, KW) -> (B, O, ...)."""
        return self._transposed(
            "conv_transpose2d", 2, weight, bias, stride, padding, output_padding, groups, dilation
        )

    def conv_transpose3d(
        self, weight: TensorBase, bias: TensorBase | None = None, stride: Sizes = 1,
        padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1,
    ) -> Self:  # fmt: skip
        """See :meth:`conv_transpose2d`; three spatial axes."""
        return self._transposed(
            "conv_transpose3d", 3, weight, bias, stride, padding, output_padding, groups, dilation
        )

    def _transposed(
        self, op: str, rank: int, weight: TensorBase, bias: TensorBase | None, stride: Sizes,
        padding: Sizes, output_padding: Sizes, groups: int, dilation: Sizes,
    ) -> Self:  # fmt: skip
        if self.ndim == rank + 1:
            single = self.unsqueeze(0)._transposed(
                op, rank, weight, bias, stride, padding, output_padding, groups, dilation
            )
            return single.squeeze(0)
        self._check_weight(op, rank, weight, groups, weight.shape[:1], 1)
        strides = _tuple(op, "stride", stride, rank, 1)
        dilations = _tuple(op, "dilation", dilation, rank, 1)
        pads = _tuple(op, "padding", padding, rank, 0)
        extra = _tuple(op, "output_padding", output_padding, rank, 0)
        if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations)):
            raise ArgumentError(
                f"[{op}] output_padding {extra}; it must be smaller than stride or dilation"
            )
        dtype = dtypes.promote(self.dtype, weight.dtype)
        # Zeros between the inputs, then an ordinary convolution with the kernel turned around.
        x = self.uop.cast(dtype)
        for axis, s in enumerate(strides):
            x = dilate(x, axis + 2, s)
        c, o, *kernel = weight.shape
        turned = weight.uop.cast(dtype).reshape((groups, c // groups, o, *kernel))
        turned = turned.permute((0, 2, 1, *range(3, 3 + rank)))
        turned = turned.flip(tuple(range(3, 3 + rank)))
        turned = turned.reshape((groups * o, c // groups, *kernel))
        amounts = [
            (d * (k - 1) - p, d * (k - 1) - p + e)
            for k, d, p, e in zip(kernel, dilations, pads, extra)
        ]
        fitted = self._new(x)._padded([(0, 0), (0, 0), *amounts]).uop
        if any(n < d * (k - 1) + 1 for n, k, d in zip(fitted.shape[2:], kernel, dilations)):
            raise ShapeError(f"[{op}] input {self.shape}; the output would be empty")
        node = _correlate(fitted, turned, (1,) * rank, dilations, groups)
        result = self._wrap(node, weight)
        return result if bias is None else result + result._of_channels(bias)

    # -- pooling -------------------------------------------------------------------------------

    def max_pool1d(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                   dilation: Sizes = 1, ceil_mode: bool = False) -> Self:  # fmt: skip
        """See :meth:`max_pool2d`; one spatial axis."""
        return self._max_pool("max_pool1d", 1, kernel_size, stride, padding, dilation, ceil_mode)

    def max_pool2d(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                   dilation: Sizes = 1, ceil_mode: bool = False) -> Self:  # fmt: skip
        """The greatest value of every window over the last two axes; stride None: side by side.

        Equal greatest values of a window share its gradient evenly.
        """
        return self._max_pool("max_pool2d", 2, kernel_size, stride, padding, dilation, ceil_mode)

    def max_pool3d(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                   dilation: Sizes = 1, ceil_mode: bool = False) -> Self:  # fmt: skip
        """See :meth:`max_pool2d`; three spatial axes."""
        return self._max_pool("max_pool3d", 3, kernel_size, stride, padding, dilation, ceil_mode)

    def _max_pool(
        self, op: str, rank: int, kernel_size: Sizes, stride: Sizes | None, padding: Sizes,
        dilation: Sizes, ceil_mode: bool,
    ) -> Self:  # fmt: skip
        node, lead, out, inner = self._pooled(
            op, rank, kernel_size, stride, padding, dilation, ceil_mode, self.dtype.minimum
        )
        order = (*lead, *out, *inner)
        return self._wrap(node.permute(order).reduce(Op.MAX, rank))

    def avg_pool1d(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                   ceil_mode: bool = False, count_include_pad: bool = True) -> Self:  # fmt: skip
        """See :meth:`avg_pool2d`; one spatial axis."""
        return self._average_pool(
            "avg_pool1d", 1, kernel_size, stride, padding, ceil_mode, count_include_pad
        )

    def avg_pool2d(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                   ceil_mode: bool = False, count_include_pad: bool = True) -> Self:  # fmt: skip
        """The mean of every window over the last two axes.

        count_include_pad: whether the zeros of the padding count as elements.
        """
        return self._average_pool(
            "avg_pool2d", 2, kernel_size, stride, padding, ceil_mode, count_include_pad
        )

    def avg_pool3d(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                   ceil_mode: bool = False, count_include_pad: bool = True) -> Self:  # fmt: skip
        """See :meth:`avg_pool2d`; three spatial axes."""
        return self._average_pool(
            "avg_pool3d", 3, kernel_size, stride, padding, ceil_mode, count_include_pad
        )

    def _average_pool(
        self, op: str, rank: int, kernel_size: Sizes, stride: Sizes | None, padding: Sizes,
        ceil_mode: bool, count_include_pad: bool,
    ) -> Self:  # fmt: skip
        value = self._floating()
        total = value._window_sum(op, rank, kernel_size, stride, padding, ceil_mode)
        pads = _tuple(op, "padding", padding, rank, 0)
        size = math.prod(_tuple(op, "kernel_size", kernel_size, rank, 1))
        if not ceil_mode and (count_include_pad or not any(pads)):
            return total * (1 / size)
        lead = (1,) * (self.ndim - rank)
        ones = self._new(constant(1.0, value.dtype, (*lead, *self.shape[self.ndim - rank :])))
        if count_include_pad:
            sides = [side for p in reversed(pads) for side in (p, p)]
            ones = ones.pad(sides, value=1)
            padding = 0
        return total / ones._window_sum(op, rank, kernel_size, stride, padding, ceil_mode)

    def _window_sum(
        self, op: str, rank: int, kernel_size: Sizes, stride: Sizes | None, padding: Sizes,
        ceil_mode: bool,
    ) -> Self:  # fmt: skip
        node, lead, out, inner = self._pooled(
            op, rank, kernel_size, stride, padding, 1, ceil_mode, 0
        )
        wide = self._wrap(node.permute((*lead, *out, *inner)))
        return wide.sum(tuple(range(wide.ndim - rank, wide.ndim)))

    def _pooled(
        self, op: str, rank: int, kernel_size: Sizes, stride: Sizes | None, padding: Sizes,
        dilation: Sizes, ceil_mode: bool, fill: Scalar,
    ) -> tuple[UOp, list[int], list[int], list[int]]:  # fmt: skip
        if self.ndim not in (rank + 1, rank + 2):
            raise ShapeError(
                f"[{op}] shape {self.shape}; it must have {rank + 1} or {rank + 2} dims"
            )
        kernel = _tuple(op, "kernel_size", kernel_size, rank, 1)
        strides = _tuple(op, "stride", kernel if stride is None else stride, rank, 1)
        pads = _tuple(op, "padding", padding, rank, 0)
        dilations = _tuple(op, "dilation", dilation, rank, 1)
        if any(2 * p > k for p, k in zip(pads, kernel)):
            raise ArgumentError(f"[{op}] padding {pads}; it must be at most half of {kernel}")
        lead = self.ndim - rank
        amounts = [(0, 0)] * lead
        for n, k, s, p, d in zip(self.shape[lead:], kernel, strides, pads, dilations):
            reach = d * (k - 1) + 1
            if n + 2 * p < reach and not (ceil_mode and n):
                raise ShapeError(
                    f"[{op}] window {kernel} on size {self.shape[lead:]} with padding {pads}; it "
                    "must fit"
                )
            after = p
            if ceil_mode:
                places = -(-(n + 2 * p - reach) // s) + 1
                if (places - 1) * s >= n + p:  # the last window must begin inside
                    places -= 1
                after = max((places - 1) * s + reach - n - p, p)
            amounts.append((p, after))
        x = self._padded(amounts, fill).uop
        return windows(x, kernel, strides, dilations)

    def adaptive_avg_pool2d(self, output_size: Sizes) -> Self:
        """Means over windows chosen so that the output has this size, which divides the input's."""
        sizes = _tuple("adaptive_avg_pool2d", "output_size", output_size, 2, 1)
        if any(n % o for n, o in zip(self.shape[-2:], sizes)):
            raise ShapeError(
                f"[adaptive_avg_pool2d] shape {self.shape} to {sizes}; each output size must "
                "divide the input's"
            )
        return self.avg_pool2d([n // o for n, o in zip(self.shape[-2:], sizes)])


def dilate(x: UOp, axis: int, step: int) -> UOp:
    """`step` - 1 zeros between neighbours along `axis`."""
    size = x.shape[axis]
    if step == 1 or size <= 1:
        return x
    head, tail = x.shape[:axis], x.shape[axis + 1 :]
    none = [(0, 0)]
    x = x.reshape((*head, size, 1, *tail))
    x = x.pad((*none * (axis + 1), (0, step - 1), *none * len(tail)))
    x = x.reshape((*head, size * step, *tail))
    return x.shrink((*((0, n) for n in head), (0, (size - 1) * step + 1), *((0, n) for n in tail)))


def _padding(
    op: str, padding: Sizes | str, kernel: Sequence[int], stride: Sequence[int],
    dilation: Sequence[int],
) -> list[tuple[int, int]]:  # fmt: skip
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ArgumentError(f"[{op}] padding 'same' with stride {stride}; the stride must be 1")
        totals = [d * (k - 1) for k, d in zip(kernel, dilation)]
        return [(total // 2, total - total // 2) for total in totals]
    if isinstance(padding, str):
        raise ArgumentError(f"[{op}] padding {padding!r}; valid are numbers, 'valid' and 'same'")
    return [(p, p) for p in _tuple(op, "padding", padding, len(kernel), 0)]


def _correlate(
    x: UOp, weight: UOp, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> UOp:
    """(B, C, ...) by (O, C / groups, ...): the product over windows, summed over C and window."""
    batch, channels = x.shape[:2]
    outputs, _, *kernel = weight.shape
    rank, inside = len(kernel), channels // groups
    if groups > 1:
        x = x.reshape((batch, groups, inside, *x.shape[2:]))
        weight = weight.reshape((groups, outputs // groups, inside, *kernel))
    node, lead, out, inner = windows(x, kernel, stride, dilation)
    sizes = tuple(node.shape[place] for place in out)
    # Axes of the product: batch, (group,) output, places | channel, window.
    head = (batch, groups, outputs // groups) if groups > 1 else (batch, outputs)
    full = (*head, *sizes, inside, *kernel)
    first, window = len(head), len(head) + rank
    targets = dict(zip(lead, (0, 1, window) if groups > 1 else (0, window)))
    targets |= {place: first + i for i, place in enumerate(out)}
    targets |= {place: window + 1 + i for i, place in enumerate(inner)}
    a = arrange(node, [targets[i] for i in range(len(node.shape))], full)
    places = range(window, window + 1 + rank)
    b = arrange(weight, [*((1, 2) if groups > 1 else (1,)), *places], full)
    result = contract(a, b, 1 + rank)
    return result.reshape((batch, outputs, *sizes)) if groups > 1 else result
