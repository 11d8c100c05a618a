"""The Tensor: all the layers of methods, data in and out, assignment and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.errors import ArgumentError, DTypeError, GradientError, ShapeError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.profiling import stage
from dovetile.tensor import placement
from dovetile.tensor.attention import Attention
from dovetile.tensor.base import TensorBase, detached
from dovetile.tensor.creation import check_dtype, dtype_of_number
from dovetile.tensor.nodes import constant

if TYPE_CHECKING:
    import numpy as np


class Tensor(Attention):
    """An array of one dtype on one device, computed when its values are asked for.

    >>> from dovetile import Tensor
    >>> (Tensor([[1.0, 2.0], [3.0, 4.0]]) @ Tensor([1.0, 1.0])).tolist()
    [3.0, 7.0]

    Args:
        data: a number, (nested) sequences of numbers, a NumPy array (or anything with
            `__array__`), or another Tensor. It is copied; :meth:`from_numpy` shares memory.
        dtype: default: float32 of Python floats, int64 of ints, bool of bools, else the array's.
        device: a name such as "NAME" or "NAME:1" (see `dovetile doctor`); default: the best.
        requires_grad: whether :meth:`backward` is to compute this Tensor's gradient.
    """

    __slots__ = ()

    def __init__(
        self, data: Any, dtype: DType | None = None, device: str | None = None,
        requires_grad: bool = False,
    ) -> None:  # fmt: skip
        made = _from_data(data, dtype, device)
        self.uop, self.grad, self.requires_grad, self._buffer = made, None, False, None
        self._adopt(made)
        _register(self)
        if requires_grad:
            self.requires_grad_()

    # -- out -----------------------------------------------------------------------------------

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind == "f":
            raise DTypeError(f"[index] a {self.dtype.name} tensor; only integers can be indices")
        return int(self.item())

    def __bool__(self) -> bool:
        if self.uop.size != 1:
            raise ArgumentError(
                f"[bool] shape {self.shape} has no single truth value; use .any() or .all()"
            )
        return bool(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("[len] a tensor without dims has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise ShapeError("[iter] a tensor without dims cannot be iterated over")
        return iter(self.unbind(0))

    def __contains__(self, value: Scalar) -> bool:
        return bool(self.eq(value).any())

    def __repr__(self) -> str:
        text = f"Tensor(shape={self.shape}, dtype={self.dtype.name}"
        device = self.uop.device
        return (
            text
            + (f", device={device}" if device else "")
            + (", requires_grad=True)" if self.requires_grad else ")")
        )

    # -- facts ---------------------------------------------------------------------------------

    def size(self, dim: int | None = None) -> tuple[int, ...] | int:
        """The shape, or one of its sizes."""
        if dim is None:
            return self.shape
        from dovetile.tensor.nodes import axis_of

        return self.shape[axis_of("size", dim, self.ndim)]

    def numel(self) -> int:
        """Number of elements."""
        return self.uop.size

    def dim(self) -> int:
        return self.ndim

    def element_size(self) -> int:
        """Bytes per element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.uop.size * self.dtype.itemsize

    def is_floating_point(self) -> bool:
        return self.dtype.kind == "f"

    # -- in and between devices ----------------------------------------------------------------

    @classmethod
    def from_numpy(cls, array: np.ndarray, device: str | None = None) -> Tensor:
        """A Tensor on the array's own memory where the device can address it, else a copy.

        Raises DTypeError for dtypes that Tensors do not have.
        """
        name = placement.device_name(device)
        return cls._adopted(_place(array, name, share=True))

    @classmethod
    def _adopted(cls, node: UOp) -> Tensor:
        result = cls._new(node)
        result._adopt(node)
        return result

    def to(self, *args: str | DType | Tensor, dtype: DType | None = None,
           device: str | None = None) -> Tensor:  # fmt: skip
        """This Tensor on another device and/or with another dtype, in any order."""
        for argument in args:
            if isinstance(argument, DType):
                dtype = argument
            elif isinstance(argument, TensorBase):
                dtype, device = argument.dtype, argument.device
            elif isinstance(argument, str):
                device = argument
            else:
                raise ArgumentError(f"[to] {argument!r}; valid are devices, dtypes and tensors")
        result = self if dtype is None else self.cast(dtype)
        if device is not None:
            name = placement.device_name(device)
            if name != result.device:
                result = result._wrap(UOp(Op.COPY, result.dtype, (result.uop,), name))
        return result

    def contiguous(self) -> Tensor:
        """The same values, held in row-major order once computed."""
        return self._wrap(self.uop.stage())

    def clone(self) -> Tensor:
        """A copy with memory of its own."""
        return self._wrap(self.uop.stage())

    # -- changing ------------------------------------------------------------------------------

    def _in_place(self, result: Tensor) -> Tensor:
        if self._buffer is not None:
            return self.assign(result)
        if result.shape != self.shape:
            raise ShapeError(f"[assign] {result.shape} to {self.shape}; it must broadcast to it")
        self.uop = result.uop.cast(self.dtype)
        self.requires_grad = result.requires_grad
        return self

    def __iadd__(self, other: Tensor | Scalar) -> Tensor:
        return self._in_place(self + other)

    def __isub__(self, other: Tensor | Scalar) -> Tensor:
        return self._in_place(self - other)

    def __imul__(self, other: Tensor | Scalar) -> Tensor:
        return self._in_place(self * other)

    def __itruediv__(self, other: Tensor | Scalar) -> Tensor:
        return self._in_place(self / other)

    def add_(self, other: Tensor | Scalar, alpha: Scalar = 1) -> Tensor:
        return self._in_place(self.add(other, alpha))

    def sub_(self, other: Tensor | Scalar, alpha: Scalar = 1) -> Tensor:
        return self._in_place(self.sub(other, alpha))

    def mul_(self, other: Tensor | Scalar) -> Tensor:
        return self._in_place(self * other)

    def div_(self, other: Tensor | Scalar) -> Tensor:
        return self._in_place(self / other)

    def clamp_(self, min: Scalar | None = None, max: Scalar | None = None) -> Tensor:
        return self._in_place(self.clamp(min, max))

    def masked_fill_(self, mask: Tensor, value: Tensor | Scalar) -> Tensor:
        return self._in_place(self.masked_fill(mask, value))

    @property
    def data(self) -> Tensor:
        """The same memory, without gradients."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        self.assign(value.detach())

    # -- gradients -----------------------------------------------------------------------------

    def backward(self, gradient: Tensor | None = None) -> None:
        """Add d(self)/d(leaf), or gradient * d(self)/d(leaf), to `grad` of every leaf.

        Raises GradientError where no input requires a gradient, or where self has several
        elements and no `gradient` of its shape is given.
        """
        from dovetile.gradient import leaf_gradients

        seed = self._seed("backward", gradient)
        with stage("gradient"):
            gradients = leaf_gradients(self.uop, seed)
        for leaf, node in gradients:
            found = self._new(node)
            leaf.grad = found if leaf.grad is None else leaf.grad + found

    def _seed(self, op: str, gradient: Tensor | None) -> UOp:
        if not self.requires_grad:
            raise GradientError(
                f"[{op}] no input of this tensor requires a gradient; make one with "
                "requires_grad=True (and outside no_grad())"
            )
        if gradient is None:
            if self.uop.size != 1:
                raise GradientError(
                    f"[{op}] shape {self.shape}; without a `gradient` of that shape the tensor "
                    "must have one element"
                )
            return constant(1.0, self.dtype, self.shape)
        if gradient.shape != self.shape:
            raise ShapeError(f"[{op}] gradient of shape {gradient.shape}; it must be {self.shape}")
        return gradient.uop.cast(self.dtype)

    def gradient(
        self, *targets: Tensor, gradient: Tensor | None = None, create_graph: bool = True
    ) -> tuple[Tensor, ...]:
        """d(self)/d(target) for each target, without touching `grad`; zeros where independent.

        create_graph: whether the results can be differentiated again.
        """
        from dovetile.gradient import gradients

        seed = self._seed("gradient", gradient)
        nodes = gradients(self.uop, seed, [target.uop for target in targets])
        results = []
        for target, node in zip(targets, nodes):
            if node is None:
                results.append(target.zeros_like())
            elif create_graph:
                results.append(self._new(node, True))
            else:
                results.append(self._new(detached(node)))
        return tuple(results)


def _register(tensor: Tensor) -> None:
    from dovetile.tensor.base import _live

    _live.add(tensor)


def _from_data(data: Any, dtype: DType | None, device: str | None) -> UOp:
    if dtype is not None:
        check_dtype("Tensor", dtype)
    if isinstance(data, TensorBase):
        node = data.detach().uop
        node = node if dtype is None else node.cast(dtype)
        name = data.device if device is None else placement.device_name(device)
        return node if name == data.device else UOp(Op.COPY, node.dtype, (node,), name)
    if isinstance(data, (bool, int, float)) and not hasattr(data, "dtype"):
        node = constant(data, dtype or dtype_of_number(data))
        if device is not None:
            name = placement.device_name(device)
            if name != placement.default_device_name():
                return UOp(Op.COPY, node.dtype, (node,), name)
        return node
    return _place(_array(data, dtype), placement.device_name(device))


def _array(data: Any, dtype: DType | None) -> np.ndarray:
    """The data as a NumPy array of one of our dtypes."""
    import numpy as np

    wanted = None if dtype is None else dtypes.to_numpy(dtype)
    if isinstance(data, (list, tuple)) and any(isinstance(x, TensorBase) for x in data):
        data = [x.tolist() if isinstance(x, TensorBase) else x for x in data]
    try:
        array = np.asarray(data)
    except (ValueError, TypeError) as error:
        raise ShapeError(f"[Tensor] {error}; nested sequences must have equal lengths") from None
    plain = not hasattr(data, "dtype")
    if wanted is None and plain:  # of Python numbers
        wanted = {"f": np.dtype(np.float32), "i": np.dtype(np.int64), "u": np.dtype(np.int64)}.get(
            array.dtype.kind
        )
        if array.size == 0 and array.dtype.kind == "f":
            wanted = np.dtype(np.float32)
    if array.dtype.kind in "OSUV" and dtypes.from_numpy(array.dtype) is None:
        raise DTypeError(
            f"[Tensor] {type(data).__name__} of {array.dtype}; it must hold numbers or bools"
        )
    return array if wanted is None else array.astype(wanted)


def _place(array: np.ndarray, device: str, share: bool = False) -> UOp:
    import numpy as np

    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if dtypes.from_numpy(array.dtype) is None:
        raise DTypeError(
            f"[Tensor] NumPy dtype {array.dtype}; valid are "
            f"{', '.join(d.name for d in dtypes.TENSOR_DTYPES)}"
        )
    shape = array.shape
    flat = np.ascontiguousarray(array).reshape(-1)
    return placement.place(flat, device, share).reshape(shape)


def where(condition: Tensor, input: Tensor | Scalar, other: Tensor | Scalar) -> Tensor:
    """`input` where the bool `condition` holds, else `other`; all broadcast."""
    return condition._choose(condition, input, other)


def grad(loss: Tensor, targets: Tensor | Sequence[Tensor], **options: Any) -> Any:
    """d(loss)/d(target): one Tensor for one target, a tuple for a sequence of them.

    See :meth:`Tensor.gradient`.
    """
    if isinstance(targets, Tensor):
        return loss.gradient(targets, **options)[0]
    return loss.gradient(*targets, **options)
