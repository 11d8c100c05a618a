"""Reading, writing and ordering along axes: gather, scatter, sort, triangles of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.dtypes import Scalar
from dovetile.errors import ArgumentError, DTypeError, ShapeError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.base import TensorBase, same_device
from dovetile.tensor.indexing import Indexing, fault_text, index_node
from dovetile.tensor.nodes import arrange, axis_of, broadcast, broadcast_shapes, constant, iota

if TYPE_CHECKING:
    from typing_extensions import Self


class Gathering(Indexing):
    """Access along axes by tensors of indices, and what is made of it."""

    __slots__ = ()

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
        fault = fault_text(self.shape, [axis])
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
        target = UOp(Op.INDEX, self.dtype, (result.uop, *places), fault_text(self.shape, [axis]))
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
            num_classes = int(self.amax().item()) + 1
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

        found = np.argwhere(self.numpy())
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
