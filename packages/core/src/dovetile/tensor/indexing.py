"""Reading and writing by indices: x[...], gather, scatter and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dovetile import dtypes
from dovetile.dtypes import Scalar
from dovetile.errors import ArgumentError, DTypeError, IndexOutOfRangeError, ShapeError, UnsupportedError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.base import TensorBase, same_device
from dovetile.tensor.convolution import Convolution, dilate
from dovetile.tensor.nodes import (
    arrange,
    axis_of,
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
        has_tensor = any(isinstance(item, TensorBase) for item in items)
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
                number = _checked(item, self.shape[axis], axis)
                if has_tensor:  # next to tensors a number is an index tensor of no dims
                    basic.append(("slice", 0, self.shape[axis], 1))
                    advanced.append((place, self._new(constant(number, dtypes.int64))))
                    place += 1
                else:
                    basic.append(("int", number))
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
        found = mask.numpy().nonzero()  # type: ignore[attr-defined]
        if mask.ndim == 0:
            raise ArgumentError("[index] a bool number; use a mask with dims, or where()")
        return [type(self)(places, device=self.device) for places in found]  # type: ignore[call-arg]

    def _apply(self, basic: list[tuple]) -> Self:
        """The basic part of an index, by movement alone."""
        limits, flips, steps, shape = [], [], [], []
        for axis, size in enumerate(self.shape):
            entry = [b for b in basic if b[0] != "new"][axis]
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
        node = UOp(Op.INDEX, self.dtype, (source, *indices), _fault(self.shape, axes))
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

    # -- functions -----------------------------------------------------------------------------

    def index_select(self, dim: int, index: TensorBase) -> Self:
        """Slices along `dim` chosen by a vector of indices."""
        axis = axis_of("index_select", dim, self.ndim)
        if index.ndim > 1:
            raise ShapeError(f"[index_select] index of shape {index.shape}; it must be a vector")
        vector = index._view(index.uop.reshape((index.uop.size,)))
        return self[(slice(None),) * axis + (vector,)]

    def _along(self, op: str, dim: int, index: TensorBase) -> tuple[int, list[UOp]]:
        """The axis, and the full set of indices for gather and scatter."""
        axis = axis_of(op, dim, self.ndim)
        fits = index.ndim == self.ndim and all(
            i <= n for d, (i, n) in enumerate(zip(index.shape, self.shape)) if d != axis
        )
        if index.dtype.kind not in "ui" or not fits:
            raise ShapeError(
                f"[{op}] index {index.dtype.name} {index.shape} for {self.shape} along dim {dim}; "
                "it must be of integers, with as many dims, no size beyond the input's but in dim"
            )
        same_device(op, self, index)
        places = [arrange(iota(n), [d], index.shape) for d, n in enumerate(index.shape)]
        places[axis] = index_node(index.uop, self.shape[axis])
        return axis, places

    def gather(self, dim: int, index: TensorBase) -> Self:
        """out[i][j] = self[index[i][j]][j] for dim 0, and so on; the result has index's shape."""
        if self.ndim == 0:
            return self.reshape(1).gather(0, index._view(index.uop.reshape((1,)))).reshape(())
        axis, places = self._along("gather", dim, index)
        fault = _fault(self.shape, [axis])
        return self._wrap(UOp(Op.INDEX, self.dtype, (self.uop, *places), fault))

    def take_along_dim(self, indices: TensorBase, dim: int) -> Self:
        """NumPy's take_along_axis: gather with sizes of 1 broadcast."""
        axis = axis_of("take_along_dim", dim, self.ndim)
        full = list(broadcast_shapes(
            "take_along_dim",
            tuple(1 if a == axis else n for a, n in enumerate(self.shape)),
            tuple(1 if a == axis else n for a, n in enumerate(indices.shape)),
        ))  # fmt: skip
        wide = self.expand([self.shape[axis] if a == axis else n for a, n in enumerate(full)])
        full[axis] = indices.shape[axis]
        return wide.gather(dim, indices._new(broadcast(indices.uop, tuple(full))))

    def scatter(
        self, dim: int, index: TensorBase, src: TensorBase | Scalar, reduce: str | None = None
    ) -> Self:
        """A copy of self in which out[index[i][j]][j] = src[i][j] (dim 0), in row-major order.

        reduce: None (write), "add", "amax", "amin" or "prod" (combine with what is there).
        """
        ops = {None: None, "add": Op.ADD, "sum": Op.ADD, "prod": Op.MUL, "multiply": Op.MUL,
               "amax": Op.MAX, "amin": Op.MIN}  # fmt: skip
        if reduce not in ops:
            raise ArgumentError(f"[scatter] reduce {reduce!r}; valid: {', '.join(map(str, ops))}")
        axis, places = self._along("scatter", dim, index)
        source = self._value(src)
        if source.ndim:
            if any(n < i for n, i in zip(source.shape, index.shape)) or source.ndim != index.ndim:
                raise ShapeError(
                    f"[scatter] src {source.shape} for index {index.shape}; it must be as large"
                )
            cut = source.uop.shrink(tuple((0, i) for i in index.shape))
        else:
            cut = broadcast(source.uop, index.shape)
        result = self._wrap(self.uop, source)
        result._own_memory()
        target = UOp(Op.INDEX, self.dtype, (result.uop, *places), _fault(self.shape, [axis]))
        result._write(target, cut.cast(self.dtype), ops[reduce])
        return result

    def scatter_add(self, dim: int, index: TensorBase, src: TensorBase) -> Self:
        """A copy of self with src[i][j] added to out[index[i][j]][j] (dim 0)."""
        return self.scatter(dim, index, src, "add")

    def index_add(self, dim: int, index: TensorBase, source: TensorBase, alpha: Scalar = 1) -> Self:
        """A copy of self with slice i of source added to slice index[i] along `dim`."""
        axis = axis_of("index_add", dim, self.ndim)
        if index.ndim != 1 or source.shape != (
            *self.shape[:axis], index.uop.size, *self.shape[axis + 1 :],
        ):  # fmt: skip
            raise ShapeError(
                f"[index_add] index {index.shape}, source {source.shape} for {self.shape} along "
                f"dim {dim}; source must be self with len(index) slices"
            )
        spread = index._new(arrange(index.uop, [axis], source.shape))
        scaled = source if alpha == 1 else source * alpha  # type: ignore[operator]
        return self.scatter(axis, spread, scaled, "add")

    def one_hot(self, num_classes: int = -1) -> Self:
        """int64 with 1 at the class and a new last axis; -1: as many classes as occur."""
        if self.dtype.kind not in "ui":
            raise DTypeError(f"[one_hot] dtype {self.dtype.name}; classes must be integers")
        if num_classes == -1:
            num_classes = int(self.amax().item()) + 1  # type: ignore[attr-defined]
        shape = (*self.shape, num_classes)
        classes = arrange(iota(num_classes).cast(self.dtype), [self.ndim], shape)
        own = arrange(self.uop, list(range(self.ndim)), shape)
        return self._new(own.eq(classes).cast(dtypes.int64))

    def masked_select(self, mask: TensorBase) -> Self:
        """The elements where mask holds, as a vector (the mask is read at once)."""
        shape = broadcast_shapes("masked_select", self.shape, mask.shape)
        wide = self.expand(shape)
        return wide[mask._new(broadcast(mask.uop, shape))]

    def nonzero(self) -> Self:
        """Indices (int64) of the elements that are not 0, one row each (read at once)."""
        import numpy as np

        found = np.argwhere(self.numpy())  # type: ignore[attr-defined]
        return type(self)(found.astype(np.int64), device=self.device)  # type: ignore[call-arg]

    def diagonal(self, dim1: int = 0, dim2: int = 1) -> Self:
        """The elements with equal indices in two axes, as a new last axis."""
        first, second = (axis_of("diagonal", d, self.ndim) for d in (dim1, dim2))
        if first == second:
            raise ShapeError(f"[diagonal] dims {dim1} and {dim2}; they must differ")
        size = min(self.shape[first], self.shape[second])
        rest = [axis for axis in range(self.ndim) if axis not in (first, second)]
        node = self.uop.permute((first, second, *rest))
        node = UOp(Op.INDEX, self.dtype, (node, iota(size), iota(size)))
        return self._wrap(node.permute((*range(1, len(rest) + 1), 0)))

    def _triangle(self, diagonal: int, upper: bool) -> Self:
        rows, columns = self.shape[-2:]
        row = arrange(iota(rows), [0], (rows, columns))
        column = arrange(iota(columns), [1], (rows, columns))
        below = column < row + diagonal if upper else row + diagonal < column
        drop = self._new(arrange(below, [self.ndim - 2, self.ndim - 1], self.shape))
        return self.masked_fill(drop, 0)

    def tril(self, diagonal: int = 0) -> Self:
        """The elements on and below the diagonal of each matrix, the others 0."""
        if self.ndim < 2:
            raise ShapeError(f"[tril] shape {self.shape}; it needs at least 2 dims")
        return self._triangle(diagonal, False)

    def triu(self, diagonal: int = 0) -> Self:
        """The elements on and above the diagonal of each matrix, the others 0."""
        if self.ndim < 2:
            raise ShapeError(f"[triu] shape {self.shape}; it needs at least 2 dims")
        return self._triangle(diagonal, True)

    # -- order ---------------------------------------------------------------------------------

    def argsort(self, dim: int = -1, descending: bool = False) -> Self:
        """Indices (int64) that sort along `dim`; stable, NaN counts as greatest.

        Every element is compared with every other: meant for axes of up to some thousands.
        """
        axis = axis_of("argsort", dim, self.ndim)
        if self.ndim == 0:
            return self._new(constant(0, dtypes.int64))
        size = self.shape[axis]
        full = (*self.shape, size)
        own = list(range(self.ndim))
        x = arrange(self.uop, own, full)
        others = [self.ndim if a == axis else a for a in own]
        other = arrange(self.uop, others, full)
        before = x < other if descending else other < x
        same = x.eq(other)
        if self.dtype.kind == "f":
            x_nan, other_nan = x.ne(x), other.ne(other)
            first, second = (other_nan, x_nan) if descending else (x_nan, other_nan)
            before = before | (first & second.logical_not())
            same = same | (x_nan & other_nan)
        place = arrange(iota(size), [axis], full)
        earlier = arrange(iota(size), [self.ndim], full) < place
        rank = (before | (same & earlier)).cast(dtypes.int64).reduce(Op.ADD, 1)
        result = self._new(constant(0, dtypes.int64, self.shape))
        source = self._new(arrange(iota(size).cast(dtypes.int64), [axis], self.shape))
        return result.scatter(axis, self._new(rank), source)

    def sort(self, dim: int = -1, descending: bool = False) -> tuple[Self, Self]:
        """(values, indices) sorted along `dim`; see :meth:`argsort`."""
        order = self.argsort(dim, descending)
        return self.gather(dim, order), order

    def topk(self, k: int, dim: int = -1, largest: bool = True) -> tuple[Self, Self]:
        """The k greatest (least) values along `dim` in order, and their indices."""
        axis = axis_of("topk", dim, self.ndim)
        if not 0 <= k <= (self.shape[axis] if self.ndim else 1):
            raise ArgumentError(f"[topk] k {k} along dim {dim} of {self.shape}; it must fit")
        order = self.argsort(axis, descending=largest)
        if self.ndim:
            order = order.narrow(axis, 0, k)
        return self.gather(axis, order), order


def index_node(index: UOp, size: int) -> UOp:
    """Positions on an axis of `size`, negative ones counted from the end."""
    unsigned = index.dtype.kind == "u" or index.minimum >= 0
    node = index.cast(dtypes.index)
    return node if unsigned else (node < 0).where(node + size, node)


def _fault(shape: Sequence[int], axes: Sequence[int]) -> str:
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
