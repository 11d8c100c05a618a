"""Methods that move elements without computing: reshape, permute, expand, pad, slices of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.dtypes import Scalar
from dovetile.errors import ArgumentError, IndexOutOfRangeError, ShapeError
from dovetile.ir.uop import UOp
from dovetile.tensor.base import TensorBase, same_device
from dovetile.tensor.nodes import (
    arrange,
    axes_of,
    axis_of,
    broadcast,
    broadcast_shapes,
    constant,
    iota,
    shape_argument,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class Movement(TensorBase):
    """Movement methods. All are lazy and free; the kernels that use the result index through."""

    __slots__ = ()

    # -- shape ---------------------------------------------------------------------------------

    def reshape(self, *shape: int | Sequence[int]) -> Self:
        """The same elements in row-major order with another shape; one size may be -1.

        Raises ShapeError where the numbers of elements differ.
        """
        sizes = shape_argument("reshape", shape)
        total = self.uop.size
        if -1 in sizes:
            known = math.prod(size for size in sizes if size != -1)
            if sizes.count(-1) > 1 or known == 0 or total % known:
                raise ShapeError(
                    f"[reshape] {self.shape} to {sizes}; one size may be -1, and {total} must be "
                    "divisible by the product of the others"
                )
            sizes = tuple(total // known if size == -1 else size for size in sizes)
        if math.prod(sizes) != total or any(size < 0 for size in sizes):
            raise ShapeError(
                f"[reshape] {self.shape} to {sizes}; the new sizes must multiply to {total}"
            )
        return self._view(self.uop.reshape(sizes))

    view = reshape

    def view_as(self, other: TensorBase) -> Self:
        return self.reshape(other.shape)

    reshape_as = view_as

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Self:
        """Axes start_dim to end_dim (inclusive) as one axis."""
        start = axis_of("flatten", start_dim, self.ndim)
        end = axis_of("flatten", end_dim, self.ndim)
        if start > end:
            raise ShapeError(f"[flatten] start_dim {start} lies after end_dim {end}")
        merged = math.prod(self.shape[start : end + 1])
        return self._view(self.uop.reshape((*self.shape[:start], merged, *self.shape[end + 1 :])))

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Self:
        """Axis `dim` split into axes of these sizes; one may be -1."""
        axis = axis_of("unflatten", dim, self.ndim)
        sizes, size = tuple(sizes), self.shape[axis]
        if sizes.count(-1) == 1:
            known = max(-math.prod(sizes), 1)
            sizes = tuple(size // known if s == -1 else s for s in sizes)
        if math.prod(sizes) != size:
            raise ShapeError(f"[unflatten] dim {dim} has size {size}; {sizes} must multiply to it")
        return self._view(self.uop.reshape((*self.shape[:axis], *sizes, *self.shape[axis + 1 :])))

    def squeeze(self, dim: int | Sequence[int] | None = None) -> Self:
        """Without the axes of size 1 (among `dim`)."""
        axes = axes_of("squeeze", dim, self.ndim)
        keep = (n for i, n in enumerate(self.shape) if n != 1 or i not in axes)
        return self._view(self.uop.reshape(tuple(keep)))

    def unsqueeze(self, dim: int) -> Self:
        """With a new axis of size 1 at `dim`."""
        axis = axis_of("unsqueeze", dim, self.ndim + 1)
        return self._view(self.uop.reshape((*self.shape[:axis], 1, *self.shape[axis:])))

    # -- order ---------------------------------------------------------------------------------

    def permute(self, *dims: int | Sequence[int]) -> Self:
        """The axes in the order `dims`. Raises ShapeError unless each occurs once."""
        order = tuple(axis_of("permute", d, self.ndim) for d in shape_argument("permute", dims))
        if sorted(order) != list(range(self.ndim)):
            raise ShapeError(
                f"[permute] dims {order} for shape {self.shape}; each of its {self.ndim} dims must "
                "occur once"
            )
        return self._view(self.uop.permute(order))

    def transpose(self, dim0: int, dim1: int) -> Self:
        """Two axes exchanged."""
        first, second = (axis_of("transpose", d, self.ndim) for d in (dim0, dim1))
        if self.ndim == 0:
            return self
        order = list(range(self.ndim))
        order[first], order[second] = second, first
        return self._view(self.uop.permute(tuple(order)))

    swapaxes = transpose

    def t(self) -> Self:
        """The transpose of a matrix; vectors and numbers as they are."""
        if self.ndim > 2:
            raise ShapeError(f"[t] shape {self.shape}; t() is for at most 2 dims, else use .mT")
        return self if self.ndim < 2 else self.transpose(0, 1)

    @property
    def T(self) -> Self:
        """All axes in reverse order."""
        return self._view(self.uop.permute(tuple(reversed(range(self.ndim)))))

    @property
    def mT(self) -> Self:
        """The last two axes exchanged."""
        if self.ndim < 2:
            raise ShapeError(f"[mT] shape {self.shape}; it needs at least 2 dims")
        return self.transpose(-2, -1)

    def movedim(self, source: int | Sequence[int], destination: int | Sequence[int]) -> Self:
        """Axes `source` moved to the places `destination`, the others keep their order."""
        sources = (source,) if isinstance(source, int) else tuple(source)
        places = (destination,) if isinstance(destination, int) else tuple(destination)
        froms = [axis_of("movedim", d, self.ndim) for d in sources]
        tos = [axis_of("movedim", d, self.ndim) for d in places]
        if len(froms) != len(tos) or len(set(froms)) < len(froms) or len(set(tos)) < len(tos):
            raise ShapeError(
                f"[movedim] source {sources}, destination {places}; they must be equally many "
                "different dims"
            )
        order = [axis for axis in range(self.ndim) if axis not in froms]
        for to, axis in sorted(zip(tos, froms)):
            order.insert(to, axis)
        return self._view(self.uop.permute(tuple(order)))

    def flip(self, *dims: int | Sequence[int]) -> Self:
        """Reversed along `dims`."""
        axes = axes_of("flip", shape_argument("flip", dims), self.ndim)
        return self._view(self.uop.flip(axes))

    # -- repetition ----------------------------------------------------------------------------

    def expand(self, *sizes: int | Sequence[int]) -> Self:
        """Axes of size 1 repeated to `sizes` (-1: as it is), new ones in front."""
        wanted = shape_argument("expand", sizes)
        shift = len(wanted) - self.ndim
        if shift < 0:
            raise ShapeError(f"[expand] {self.shape} to {wanted}; sizes may only be added in front")
        target = []
        for axis, size in enumerate(wanted):
            old = self.shape[axis - shift] if axis >= shift else 1
            target.append(old if size == -1 and axis >= shift else size)
            if target[-1] < 0 or old not in (1, target[-1]):
                raise ShapeError(
                    f"[expand] {self.shape} to {wanted}; only axes of size 1 can be repeated"
                )
        return self._wrap(broadcast(self.uop, tuple(target)))

    def expand_as(self, other: TensorBase) -> Self:
        return self.expand(other.shape)

    broadcast_to = expand

    def repeat(self, *repeats: int | Sequence[int]) -> Self:
        """The whole tensor repeated so often along each axis (NumPy's tile)."""
        counts = shape_argument("repeat", repeats)
        if len(counts) < self.ndim or any(count < 0 for count in counts):
            raise ShapeError(
                f"[repeat] {counts} for shape {self.shape}; there must be one count >= 0 per dim"
            )
        shape = (1,) * (len(counts) - self.ndim) + self.shape
        pairs = [size for pair in zip(counts, shape) for size in pair]
        ones = [size for n in shape for size in (1, n)]
        node = broadcast(self.uop.reshape(tuple(ones)), tuple(pairs))
        return self._wrap(node.reshape(tuple(c * n for c, n in zip(counts, shape))))

    tile = repeat

    def repeat_interleave(self, repeats: int, dim: int | None = None) -> Self:
        """Each element along `dim` repeated `repeats` times; dim None: of the flat tensor."""
        if dim is None:
            return self.reshape(-1).repeat_interleave(repeats, 0)
        axis = axis_of("repeat_interleave", dim, self.ndim)
        if repeats < 0:
            raise ArgumentError(f"[repeat_interleave] repeats {repeats}; it must be >= 0")
        head, size, tail = self.shape[:axis], self.shape[axis], self.shape[axis + 1 :]
        node = broadcast(self.uop.reshape((*head, size, 1, *tail)), (*head, size, repeats, *tail))
        return self._wrap(node.reshape((*head, size * repeats, *tail)))

    # -- borders -------------------------------------------------------------------------------

    def pad(self, pad: Sequence[int], mode: str = "constant", value: Scalar = 0) -> Self:
        """Elements added before and after, as torch.nn.functional.pad.

        pad: (before, after) of the last axis, then of the one before it, ...; negative removes.
        mode: "constant" (with `value`), "reflect", "replicate" or "circular".
        """
        pad = tuple(pad)
        if len(pad) % 2 or len(pad) > 2 * self.ndim:
            raise ShapeError(
                f"[pad] {pad} for shape {self.shape}; it must hold pairs, at most one per dim"
            )
        pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]
        amounts = ((0, 0),) * (self.ndim - len(pairs)) + tuple(reversed(pairs))
        if mode == "constant":
            return self._padded(amounts, value)
        if mode not in ("reflect", "replicate", "circular"):
            raise ArgumentError(
                f"[pad] mode {mode!r}; valid are constant, reflect, replicate, circular"
            )
        result = self
        for axis, (before, after) in enumerate(amounts):
            result = result._border(axis, before, after, mode)
        return result

    def _padded(self, amounts: Sequence[tuple[int, int]], value: Scalar = 0) -> Self:
        shape = self.shape
        limits = tuple((max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(shape, amounts))
        if any(start > stop for start, stop in limits):
            raise ShapeError(f"[pad] {amounts} removes more than shape {shape} has")
        inner = self.uop.shrink(limits)
        grow = tuple((max(b, 0), max(a, 0)) for b, a in amounts)
        node = inner.pad(grow)
        if value != 0 and node is not inner:
            inside = constant(True, dtypes.bool_, inner.shape).pad(grow)
            node = inside.where(node, constant(value, self.dtype, node.shape))
        return self._wrap(node)

    def _border(self, axis: int, before: int, after: int, mode: str) -> Self:
        """Elements of the tensor itself added at the ends of one axis."""
        if before == after == 0:
            return self
        size = self.shape[axis]
        limit = {"reflect": size - 1, "circular": size, "replicate": None}[mode]
        if before < 0 or after < 0 or size == 0 or limit is not None and max(before, after) > limit:
            raise ShapeError(
                f"[pad] {mode} of {(before, after)} on an axis of size {size}; amounts must be "
                f">= 0{'' if limit is None else f' and at most {limit}'}"
            )
        if mode == "replicate":
            first = self.narrow(axis, 0, 1).repeat_interleave(before, axis)
            last = self.narrow(axis, size - 1, 1).repeat_interleave(after, axis)
        elif mode == "circular":
            first = self.narrow(axis, size - before, before)
            last = self.narrow(axis, 0, after)
        else:
            first = self.narrow(axis, 1, before).flip(axis)
            last = self.narrow(axis, size - 1 - after, after).flip(axis)
        return type(self).cat([first, self, last], axis)

    def narrow(self, dim: int, start: int, length: int) -> Self:
        """Elements start to start + length - 1 along `dim`."""
        axis = axis_of("narrow", dim, self.ndim)
        size = self.shape[axis]
        start = start + size if start < 0 else start
        if not (0 <= start <= size and 0 <= length <= size - start):
            raise IndexOutOfRangeError(
                f"[narrow] start {start}, length {length} along dim {dim} of size {size}; the "
                "range must lie inside"
            )
        limits = [(0, n) for n in self.shape]
        limits[axis] = (start, start + length)
        return self._view(self.uop.shrink(tuple(limits)))

    def split(self, split_size: int | Sequence[int], dim: int = 0) -> tuple[Self, ...]:
        """Pieces along `dim`: of this size (the last may be smaller), or of these sizes."""
        size = self.shape[axis_of("split", dim, self.ndim)]
        if isinstance(split_size, int):
            if split_size <= 0:
                raise ArgumentError(f"[split] split_size {split_size}; it must be positive")
            sizes = [min(split_size, size - at) for at in range(0, size, split_size)] or [0]
        else:
            sizes = list(split_size)
            if sum(sizes) != size:
                raise ShapeError(f"[split] sizes {sizes} along dim {dim}; they must sum to {size}")
        pieces, at = [], 0
        for length in sizes:
            pieces.append(self.narrow(dim, at, length))
            at += length
        return tuple(pieces)

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Self, ...]:
        """At most `chunks` pieces of equal size (the last may be smaller) along `dim`."""
        if chunks <= 0:
            raise ArgumentError(f"[chunk] chunks {chunks}; it must be positive")
        size = self.shape[axis_of("chunk", dim, self.ndim)]
        return self.split(max(-(-size // chunks), 1), dim)

    def unbind(self, dim: int = 0) -> tuple[Self, ...]:
        """The slices along `dim`, without that axis."""
        axis = axis_of("unbind", dim, self.ndim)
        return tuple(self.narrow(axis, i, 1).squeeze(axis) for i in range(self.shape[axis]))

    # -- joining -------------------------------------------------------------------------------

    @classmethod
    def cat(cls, tensors: Sequence[Self], dim: int = 0) -> Self:
        """The tensors one after the other along `dim`; dtypes promote.

        Raises ShapeError where sizes differ in other axes.
        """
        if not tensors:
            raise ArgumentError("[cat] no tensors; there must be at least one")
        first = tensors[0]
        axis = axis_of("cat", dim, first.ndim)
        for other in tensors:
            same = len(other.shape) == first.ndim and all(
                a == b for i, (a, b) in enumerate(zip(first.shape, other.shape)) if i != axis
            )
            if not same or first.ndim == 0:
                raise ShapeError(
                    f"[cat] shapes {[t.shape for t in tensors]} along dim {dim}; they must have "
                    "at least one dim and be equal in all others"
                )
        same_device("cat", *tensors)
        dtype = dtypes.promote(*(t.dtype for t in tensors))
        nodes = [t.uop.cast(dtype) for t in tensors if t.shape[axis]]
        if len(nodes) < 2:
            return first._wrap(nodes[0] if nodes else first.uop.cast(dtype), *tensors)
        return first._wrap(_joined(nodes, axis), *tensors)

    @classmethod
    def stack(cls, tensors: Sequence[Self], dim: int = 0) -> Self:
        """The tensors, of equal shape, along a new axis `dim`."""
        if not tensors:
            raise ArgumentError("[stack] no tensors; there must be at least one")
        if any(t.shape != tensors[0].shape for t in tensors):
            raise ShapeError(f"[stack] shapes {[t.shape for t in tensors]}; they must be equal")
        axis = axis_of("stack", dim, tensors[0].ndim + 1)
        return cls.cat([t.unsqueeze(axis) for t in tensors], axis)

    def roll(self, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Self:
        """Elements shifted along `dims`, those pushed out at the end come in at the front."""
        if dims is None:
            flat = self.reshape(-1).roll(shifts, 0)
            return flat.reshape(self.shape)
        amounts = (shifts,) if isinstance(shifts, int) else tuple(shifts)
        axes = (dims,) if isinstance(dims, int) else tuple(dims)
        if len(amounts) != len(axes):
            raise ShapeError(f"[roll] shifts {amounts}, dims {axes}; they must be equally many")
        result = self
        for amount, dim in zip(amounts, axes):
            axis = axis_of("roll", dim, self.ndim)
            size = self.shape[axis]
            amount = amount % size if size else 0
            if amount:
                head, tail = result.split([size - amount, amount], axis)
                result = type(self).cat([tail, head], axis)
        return result

    @staticmethod
    def broadcast_tensors(*tensors: TensorBase) -> tuple[TensorBase, ...]:
        """All tensors repeated to their common shape."""
        shape = broadcast_shapes("broadcast_tensors", *(t.shape for t in tensors))
        return tuple(t._wrap(broadcast(t.uop, shape)) for t in tensors)


def _joined(nodes: list[UOp], axis: int) -> UOp:
    """The nodes one after the other: each padded to the whole, and a choice by position."""
    sizes = [node.shape[axis] for node in nodes]
    rank, total = len(nodes[0].shape), sum(sizes)
    result, at = None, 0
    for node, size in zip(nodes, sizes):
        amounts = [(0, 0)] * rank
        amounts[axis] = (at, total - at - size)
        padded = node.pad(tuple(amounts))
        if result is None:
            result = padded
        else:
            before = iota(total) < at
            result = arrange(before, [axis], padded.shape).where(result, padded)
        at += size
    assert result is not None
    return result
