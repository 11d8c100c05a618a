"""Products that sum: matmul, dot, linear, einsum. All are one MUL and one REDUCE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.errors import ArgumentError, ShapeError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.base import TensorBase, same_device
from dovetile.tensor.nodes import Shape, arrange, broadcast_shapes
from dovetile.tensor.reduction import Reduction

if TYPE_CHECKING:
    from typing_extensions import Self


def contract(a: UOp, b: UOp, count: int) -> UOp:
    """Sum of a * b over the last `count` axes; small floats add up in float32."""
    dtype = a.dtype
    if dtype in dtypes.SMALL_FLOATS:
        a, b = a.cast(dtypes.float32), b.cast(dtypes.float32)
    if dtype.kind == "b":
        return (a & b).reduce(Op.MAX, count)
    return (a * b).reduce(Op.ADD, count).cast(dtype)


class Products(Reduction):
    """Products of tensors."""

    __slots__ = ()

    def matmul(self, other: TensorBase) -> Self:
        """The matrix product (..., m, k) @ (..., k, n) -> (..., m, n), leading axes broadcast.

        A vector operand counts as a row (left) or column (right), which the result lacks.
        Raises ShapeError where the inner sizes differ.
        """
        if not isinstance(other, TensorBase):
            raise ArgumentError(f"[matmul] operand of type {type(other).__name__}; a Tensor is due")
        if not self.ndim or not other.ndim:
            raise ShapeError(
                f"[matmul] {self.shape} @ {other.shape}; both must have at least one dim"
            )
        same_device("matmul", self, other)
        dtype = dtypes.promote(self.dtype, other.dtype)
        a, b = self.uop.cast(dtype), other.uop.cast(dtype)
        row, column = self.ndim == 1, other.ndim == 1
        inner = a.shape[-1]
        if inner != b.shape[0 if column else -2]:
            which = "only" if column else "second-to-last"
            raise ShapeError(
                f"[matmul] inner sizes differ: {self.shape} @ {other.shape}; the last size of the "
                f"left must equal the {which} of the right ({inner} != "
                f"{b.shape[0 if column else -2]})"
            )
        left, right = a.shape[:-2], b.shape[:-2]
        batch = broadcast_shapes("matmul", left, right)
        rows = () if row else (a.shape[-2],)
        columns = () if column else (b.shape[-1],)
        full = (*batch, *rows, *columns, inner)
        last = len(full) - 1
        places = len(batch)

        def spread(node: UOp, lead: Shape, others: list[int]) -> UOp:
            kept = [i for i, n in enumerate(lead) if n == batch[i + places - len(lead)]]
            if len(kept) < len(lead):
                node = node.reshape((*(lead[i] for i in kept), *node.shape[len(lead) :]))
            return arrange(node, [*(i + places - len(lead) for i in kept), *others], full)

        x = spread(a, left, [last] if row else [places, last])
        y = spread(b, right, [last] if column else [last, last - 1])
        return self._wrap(contract(x, y, 1), other)

    __matmul__ = matmul
    mm = bmm = matmul

    def __rmatmul__(self, other: TensorBase) -> Self:
        return type(self).matmul(other, self)  # type: ignore[arg-type, return-value]

    def dot(self, other: TensorBase) -> Self:
        """The inner product of two vectors of equal length."""
        if self.ndim != 1 or other.ndim != 1:
            raise ShapeError(f"[dot] {self.shape} and {other.shape}; both must have one dim")
        return self.matmul(other)

    def outer(self, other: Self) -> Self:
        """Every product of an element of one vector with one of the other."""
        if self.ndim != 1 or other.ndim != 1:
            raise ShapeError(f"[outer] {self.shape} and {other.shape}; both must have one dim")
        return self.unsqueeze(1) * other.unsqueeze(0)

    def linear(self, weight: TensorBase, bias: TensorBase | None = None) -> Self:
        """x @ weight.T + bias, for weight of shape (out, in), as torch.nn.functional.linear."""
        if weight.ndim != 2:
            raise ShapeError(f"[linear] weight of shape {weight.shape}; it must be (out, in)")
        result = self.matmul(weight._view(weight.uop.permute((1, 0))))
        return result if bias is None else result + bias

    @classmethod
    def einsum(cls, equation: str, *operands: Self) -> Self:
        """Sums of products by Einstein's notation: "bij,bjk->bik", with "..." and repeated letters.

        Raises ArgumentError for a malformed equation, ShapeError where sizes of a letter differ.
        """
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = tuple(operands[0])
        terms, output, sizes = _parse(equation, [t.shape for t in operands])
        same_device("einsum", *operands)
        dtype = dtypes.promote(*(t.dtype for t in operands))
        letters = output + [x for x in sizes if x not in output]
        full = tuple(sizes[letter] for letter in letters)
        first, product = operands[0], None
        inner = dtypes.float32 if dtype in dtypes.SMALL_FLOATS else dtype
        for operand, term in zip(operands, terms):
            value, names = operand, list(term)
            for letter in dict.fromkeys(term):
                while names.count(letter) > 1:
                    i = names.index(letter)
                    j = names.index(letter, i + 1)
                    value = value.diagonal(i, j)  # type: ignore[attr-defined]
                    del names[j], names[i]
                    names.append(letter)
            kept = [i for i, x in enumerate(names) if value.shape[i] == sizes[x]]
            node = value.uop.reshape(tuple(value.shape[i] for i in kept)).cast(inner)
            node = arrange(node, [letters.index(names[i]) for i in kept], full)
            product = node if product is None else product.alu(_times(dtype), node)
        assert product is not None
        count = len(letters) - len(output)
        add = Op.MAX if dtype.kind == "b" else Op.ADD
        return first._wrap(product.reduce(add, count).cast(dtype), *operands)


def _times(dtype: dtypes.DType) -> Op:
    return Op.AND if dtype.kind == "b" else Op.MUL


def _parse(equation: str, shapes: list[Shape]) -> tuple[list[list[str]], list[str], dict[str, int]]:
    """Letters of every operand, of the result, and the size of each letter.

    The axes of an ellipsis get the names ".1", ".2", ... counted from the right.
    """
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(shapes) or not shapes:
        raise ArgumentError(
            f"[einsum] {equation!r} with {len(shapes)} operands; it names {len(inputs)}"
        )

    def letters(term: str, dots: int) -> list[str]:
        head, ellipsis, tail = term.partition("...")
        if not all(c.isalpha() for c in head + tail):
            raise ArgumentError(f"[einsum] {equation!r}; terms are letters and at most one '...'")
        middle = [f".{dots - i}" for i in range(dots)] if ellipsis else []
        return [*head, *middle, *tail]

    terms, sizes, widest = [], {}, 0
    for term, shape in zip(inputs, shapes):
        plain = len(term.replace("...", ""))
        dots = len(shape) - plain
        if dots < 0 or dots > 0 and "..." not in term:
            raise ShapeError(f"[einsum] {term!r} for shape {shape}; it must name each dim once")
        widest = max(widest, dots)
        terms.append(letters(term, dots))
        for letter, size in zip(terms[-1], shape):
            known = sizes.get(letter, 1)
            if size != known and 1 not in (size, known):
                raise ShapeError(
                    f"[einsum] {equation!r}: {letter!r} has the sizes {known} and {size}; they "
                    "must be equal or 1"
                )
            sizes[letter] = max(size, known) if 0 not in (size, known) else 0
    if arrow:
        output = letters(right, widest)
    else:
        once = sorted(x for x in sizes if x[0] != "." and left.count(x) == 1)
        output = [*(f".{widest - i}" for i in range(widest)), *once]
    if len(set(output)) < len(output) or not set(output) <= set(sizes):
        raise ArgumentError(
            f"[einsum] {equation!r}; the result's letters must differ and occur in an operand"
        )
    return terms, output, sizes
