"""Reading and writing by indices: x[...], gather, scatter and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dovetile import dtypes
from dovetile.dtypes import Scalar
from dovetile.errors import (
    ArgumentError,
    DTypeError,
    IndexOutOfRangeError,
    ShapeError,
    UnsupportedError,
)
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.base import TensorBase, same_device
from dovetile.tensor.convolution import Convolution, dilate
from dovetile.tensor.nodes import (
    arrange,
    broadcast,
    broadcast_shapes,
    constant,
    iota,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class Indexing(Convolution):
    """Indexing as in PyTorch and NumPy. Indices out of range raise IndexOutOfRangeError: known
    ones at once, computed ones when the kernel runs."""

    __slots__ = ()

    # -- x[...] --------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Self:
        """Ints, slices, None, Ellipsis; integer and bool tensors, arrays and lists.

        A bool mask is read at once, since the result's shape depends on it.
        """
        basic, advanced = self._resolve(index)
        view = self._apply(basic)
        if not advanced:
            return view
        return view._read(advanced)

    def __setitem__(self, index: Any, value: TensorBase | Scalar | Any) -> None:
        """Write `value`, broadcast and cast to this dtype, at the places x[index] reads.

        Where integer tensors name a place twice, the last value in row-major order stays.
        """
        value = self._value(value)
        basic, advanced = self._resolve(index)
        basic, steps = _without_steps(basic)
        if steps and advanced:
            raise UnsupportedError(
                "[setitem] a slice with a step next to index tensors; use torch.arange-like "
                "indices for that dim"
            )
        self._own_memory()
        target = self._apply(basic)
        if advanced:
            node, shape, order = target._addressed(advanced)
        else:
            node, shape, order = target.uop, target.shape, None
        seen = tuple(-(-n // steps.get(axis, 1)) for axis, n in enumerate(shape))
        if broadcast_shapes("setitem", value.shape, seen) != seen:
            raise ShapeError(f"[setitem] value of shape {value.shape} into {seen}; it must fit")
        source = broadcast(value.uop.cast(self.dtype), seen)
        for axis, step in steps.items():  # the elements between are written as they are
            source = dilate(source, axis, step)
            source = source.pad(
                tuple((0, shape[a] - n if a == axis else 0) for a, n in enumerate(source.shape))
            )
        if steps:
            hit = constant(True, dtypes.bool_, shape)
            for axis, step in steps.items():
                on = (iota(shape[axis]) % step).eq(0)
                hit = hit & arrange(on, [axis], shape)
            source = hit.where(source, node)
        if order is not None:
            source = source.permute(order)
        self.requires_grad = self.requires_grad or value.requires_grad
        self._write(node, source)

    def assign(self, value: TensorBase | Scalar | Any) -> Self:
        """Change this Tensor's values in place: `value` broadcast to its shape, cast to its dtype.

        Views of the same memory change too. Returns the Tensor itself.
        Raises ShapeError where `value` does not fit.
        """
        value = self._value(value)
        if broadcast_shapes("assign", value.shape, self.shape) != self.shape:
            raise ShapeError(f"[assign] {value.shape} to {self.shape}; it must broadcast to it")
        node = broadcast(value.uop.cast(self.dtype), self.shape)
        if node is self.uop:
            return self
        leaf = self.is_leaf and self.requires_grad
        if self._buffer is None:
            if not leaf:
                self.requires_grad = value.requires_grad and self.dtype.kind == "f"
            self._own_memory(node)
        else:
            self._write(self.uop, node)
            if not leaf and value.requires_grad:
                self.requires_grad = True
        return self

    copy_ = assign

    def fill_(self, value: Scalar) -> Self:
        return self.assign(value)

    def zero_(self) -> Self:
        return self.assign(0)

    def _value(self, value: TensorBase | Scalar | Any) -> Self:
        """Anything as a Tensor on this device."""
        if isinstance(value, TensorBase):
            same_device("setitem", self, value)
            return value  # type: ignore[return-value]
        if isinstance(value, (bool, int, float)):
            return self._new(constant(value, dtypes.promote_weak(self.dtype, value)))
        return type(self)(value, device=self.device)  # type: ignore[call-arg]

    def _resolve(self, index: Any) -> tuple[list[tuple], list[tuple[int, TensorBase]]]:
        """The index as (basic part, advanced part).

        basic: per axis of self (None, ...) entries ("slice", start, stop, step), ("int", i) or
        ("new",); advanced: (axis of the basic result, index tensor) with equal shapes later.
        """
        items = list(index) if isinstance(index, tuple) else [index]
        items = [self._tensor_index(item) for item in items]
        used = sum(_axes_used(item) for item in items)
        dots = [i for i, item in enumerate(items) if item is Ellipsis]
        if len(dots) > 1 or used > self.ndim:
            raise IndexOutOfRangeError(
                f"[index] {len(items)} indices for shape {self.shape}; there may be one '...' and "
                f"at most {self.ndim} that take a dim"
            )
        fill = [slice(None)] * (self.ndim - used)
        if dots:
            items[dots[0] : dots[0] + 1] = fill
        else:
            items += fill
        basic: list[tuple] = []
        advanced: list[tuple[int, TensorBase]] = []
        axis = place = 0
        for item in items:
            if item is None:
                basic.append(("new",))
                place += 1
            elif isinstance(item, slice):
                basic.append(("slice", *_slice(item, self.shape[axis])))
                axis += 1
                place += 1
            elif isinstance(item, TensorBase) and item.dtype.kind == "b":
                for found in self._true_places(item, axis):
                    basic.append(("slice", 0, self.shape[axis], 1))
                    advanced.append((place, found))
                    axis += 1
                    place += 1
            elif isinstance(item, TensorBase):
                basic.append(("slice", 0, self.shape[axis], 1))
                advanced.append((place, item))
                axis += 1
                place += 1
            else:
                basic.append(("int", _checked(item, self.shape[axis], axis)))
                axis += 1
        return basic, advanced

    def _tensor_index(self, item: Any) -> Any:
        """Lists and arrays as index Tensors; bools as masks of no dims; the rest as it is."""
        import numpy as np

        if item is None or item is Ellipsis or isinstance(item, slice):
            return item
        if isinstance(item, TensorBase):
            if item.dtype.kind == "f":
                raise DTypeError(f"[index] dtype {item.dtype.name}; indices are integers or bool")
            return item
        if isinstance(item, (bool, np.bool_)):
            return type(self)(np.asarray(item), device=self.device)  # type: ignore[call-arg]
        if isinstance(item, (list, np.ndarray)):
            array = np.asarray(item, dtype=np.int64) if not len(item) else np.asarray(item)
            if array.dtype.kind not in "iub":
                raise DTypeError(f"[index] {array.dtype} array; indices are integers or bool")
            return type(self)(array, device=self.device)  # type: ignore[call-arg]
        if hasattr(item, "__index__"):
            return item.__index__()
        raise DTypeError(
            f"[index] {type(item).__name__}; valid are ints, slices, None, '...', tensors, lists"
        )

    def _true_places(self, mask: TensorBase, axis: int) -> list[TensorBase]:
        expected = self.shape[axis : axis + mask.ndim]
        if mask.shape != expected:
            raise IndexOutOfRangeError(
                f"[index] mask of shape {mask.shape} at dim {axis} of {self.shape}; it must be "
                f"{expected}"
            )
        found = mask.numpy().nonzero()
        if mask.ndim == 0:
            raise ArgumentError("[index] a bool number; use a mask with dims, or where()")
        return [type(self)(places, device=self.device) for places in found]  # type: ignore[call-arg]

    def _apply(self, basic: list[tuple]) -> Self:
        """The basic part of an index, by movement alone."""
        limits, flips, steps, shape = [], [], [], []
        for axis, entry in enumerate(b for b in basic if b[0] != "new"):
            if entry[0] == "int":
                limits.append((entry[1], entry[1] + 1))
                steps.append(1)
                continue
            _, start, stop, step = entry
            if step < 0:  # the same elements in rising order, then reversed
                count = max(-((stop - start) // -step), 0) if stop < start else 0
                start, stop, step = start + (count - 1) * step, start + 1, -step
                flips.append(axis)
                if not count:
                    start = stop = 0
            limits.append((start, max(stop, start)))
            steps.append(step)
        node = self.uop.shrink(tuple(limits))
        for axis, step in enumerate(steps):
            node = _every(node, axis, step)
        node = node.flip(tuple(flips))
        sizes = iter(node.shape)
        for entry in basic:
            if entry[0] == "new":
                shape.append(1)
            elif entry[0] == "int":
                next(sizes)
            else:
                shape.append(next(sizes))
        return self._view(node.reshape(tuple(shape)))

    def _addressed(
        self, advanced: list[tuple[int, TensorBase]]
    ) -> tuple[UOp, tuple[int, ...], tuple[int, ...]]:
        """(INDEX node, the shape users see, the order of its axes that gives the node's)."""
        same_device("index", self, *(index for _, index in advanced))
        axes = [axis for axis, _ in advanced]
        shape = broadcast_shapes("index", *(index.shape for _, index in advanced))
        rest = [axis for axis in range(self.ndim) if axis not in axes]
        indices = [
            broadcast(index_node(index.uop, self.shape[axis]), shape) for axis, index in advanced
        ]
        source = self.uop.permute((*axes, *rest))
        node = UOp(Op.INDEX, self.dtype, (source, *indices), fault_text(self.shape, axes))
        # Neighbouring index axes are replaced where they stood, others go to the front.
        together = axes == list(range(axes[0], axes[0] + len(axes)))
        front = sum(axis < axes[0] for axis in rest) if together else 0
        rank, index_rank = len(node.shape), len(shape)
        seen = [index_rank + i for i in range(front)]
        seen += [*range(index_rank), *range(index_rank + front, rank)]
        order = [0] * rank
        for place, axis in enumerate(seen):
            order[axis] = place
        return node, tuple(node.shape[axis] for axis in seen), tuple(order)

    def _read(self, advanced: list[tuple[int, TensorBase]]) -> Self:
        node, _, order = self._addressed(advanced)
        seen = [0] * len(order)
        for axis, place in enumerate(order):
            seen[place] = axis
        return self._wrap(node.permute(tuple(seen)))


def index_node(index: UOp, size: int) -> UOp:
    """Positions on an axis of `size`, negative ones counted from the end."""
    unsigned = index.dtype.kind == "u" or index.minimum >= 0
    node = index.cast(dtypes.index)
    return node if unsigned else (node < 0).where(node + size, node)


def fault_text(shape: Sequence[int], axes: Sequence[int]) -> str:
    sizes = ", ".join(f"dim {axis} of size {shape[axis]}" for axis in axes)
    return f"[index] an index lies outside {sizes}; it must lie in [-size, size - 1]"


def _axes_used(item: Any) -> int:
    if item is None or item is Ellipsis:
        return 0
    if isinstance(item, TensorBase) and item.dtype.kind == "b":
        return item.ndim
    return 1


def _slice(item: slice, size: int) -> tuple[int, int, int]:
    try:
        return item.indices(size)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"[index] {item}: {error}") from None


def _checked(number: int, size: int, axis: int) -> int:
    if not -size <= number < size:
        raise IndexOutOfRangeError(
            f"[index] index {number} for dim {axis} of size {size}; it must lie in "
            f"[{-size}, {size - 1}]"
        )
    return number % size


def _without_steps(basic: list[tuple]) -> tuple[list[tuple], dict[int, int]]:
    """The slices with step 1 or -1 over the same range, and {axis of the result: step}."""
    plain, steps, place = [], {}, 0
    for entry in basic:
        if entry[0] == "slice":
            _, start, stop, step = entry
            if abs(step) > 1:
                steps[place] = abs(step)
                if step < 0:  # ends where the last element lies, so that counting starts there
                    count = max(-((stop - start) // -step), 0) if stop < start else 0
                    stop = start + (count - 1) * step - 1 if count else start
                entry = ("slice", start, stop, 1 if step > 0 else -1)
            place += 1
        elif entry[0] == "new":
            place += 1
        plain.append(entry)
    return plain, steps


def _every(node: UOp, axis: int, step: int) -> UOp:
    """Every step-th element along `axis`, from the first on."""
    size = node.shape[axis]
    if step == 1 or size == 0:
        return node
    count = -(-size // step)
    head, tail = node.shape[:axis], node.shape[axis + 1 :]
    spare = count * step - size
    if spare:
        none = (0, 0)
        node = node.pad((*(none for _ in head), (0, spare), *(none for _ in tail)))
    split = node.reshape((*head, count, step, *tail))
    limits = (*((0, n) for n in head), (0, count), (0, 1), *((0, n) for n in tail))
    return split.shrink(limits).reshape((*head, count, *tail))
