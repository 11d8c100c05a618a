"""What every Tensor is: a node of the lazy graph, its gradient's state, its place in memory."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.errors import DeviceError, DTypeError, OutOfMemoryError, ShapeError
from dovetile.ir.held import forget_origin, realized, storage
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor import placement
from dovetile.tensor.identity import IdentitySet
from dovetile.tensor.nodes import Shape, broadcast, broadcast_shapes, constant

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Self

_grad_enabled: contextvars.ContextVar[bool] = contextvars.ContextVar("grad_enabled", default=True)

_live: IdentitySet[TensorBase] = IdentitySet()
_VIEWS = frozenset({Op.RESHAPE, Op.PERMUTE, Op.SHRINK, Op.FLIP})
_LEADING = _VIEWS | {Op.AFTER}  # to the memory that a value lies in
_BUFFER = Op.BUFFER  # looking up a member of an Enum is slow before Python 3.12


class _Pending(threading.local):
    """BUFFERs that assigns of this thread have written to, in the graph but not yet in memory.

    Whatever the thread computes next carries these writes out too, so that they never pile up.
    """

    def __init__(self) -> None:
        self.written: dict[weakref.ref[UOp], None] = {}


_pending = _Pending()


def has_pending_writes() -> bool:
    """Whether assigns of this thread are not in memory yet."""
    return bool(_pending.written)


def live_tensors() -> list[TensorBase]:
    """Every Tensor that exists: the scheduler looks here for pending readers of a buffer."""
    return list(_live)


def is_grad_enabled() -> bool:
    """Whether results of operations remember how their gradients are computed."""
    return _grad_enabled.get()


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Within, results never require gradients. Also a decorator, as in PyTorch."""
    token = _grad_enabled.set(False)
    try:
        yield
    finally:
        _grad_enabled.reset(token)


@contextlib.contextmanager
def enable_grad() -> Iterator[None]:
    """Within, results require gradients where their inputs do, also inside :func:`no_grad`."""
    token = _grad_enabled.set(True)
    try:
        yield
    finally:
        _grad_enabled.reset(token)


def detached(node: UOp) -> UOp:
    """`node`, but gradients stop here: an AFTER that waits for nothing."""
    return UOp(Op.AFTER, node.dtype, (node,))


def is_detached(node: UOp) -> bool:
    return node.op is Op.AFTER and len(node.src) == 1


def state_of(node: UOp) -> UOp | None:
    """The state of the buffer (BUFFER, or AFTER over one) that `node` is a view of, or None."""
    while node.op in _VIEWS or is_detached(node):
        node = node.src[0]
    return node if node.op is Op.BUFFER or node.op is Op.AFTER else None


def buffer_of(node: UOp) -> UOp | None:
    """The BUFFER that `node` is a view of (in whichever state), or None."""
    while node.op in _LEADING:
        node = node.src[0]
    return node if node.op is _BUFFER else None


def leaf_of(buffer: UOp) -> TensorBase | None:
    """The Tensor with requires_grad that owns `buffer`."""
    reference = storage(buffer).leaf
    return None if reference is None else reference()


def aliases(buffer: UOp) -> list[TensorBase]:
    """The Tensors that show the memory of `buffer`: an assign through one is seen by all."""
    shown = storage(buffer).tensors
    return [] if shown is None else list(shown)


def _with_state(node: UOp, new: UOp) -> UOp:
    """The view `node` of a buffer's state, now of the state `new`."""
    chain = []
    while node.op in _VIEWS or is_detached(node):
        chain.append(node)
        node = node.src[0]
    for link in reversed(chain):
        new = link.replace(src=(new,))
    return new


class TensorBase:
    """State of a Tensor. All methods build new nodes; only assigning changes a Tensor."""

    __slots__ = ("uop", "requires_grad", "grad", "_buffer", "__weakref__")

    uop: UOp
    requires_grad: bool
    grad: Self | None
    _buffer: UOp | None  # the BUFFER this shows through movement ops

    @classmethod
    def _new(cls, node: UOp, requires_grad: bool = False) -> Self:
        result = object.__new__(cls)
        result.uop = node
        result.grad = None
        result.requires_grad = requires_grad
        result._buffer = None
        _live.add(result)
        return result

    def _wrap(self, node: UOp, *others: TensorBase) -> Self:
        """The Tensor of a result computed from this and the others."""
        needs = self.requires_grad
        for other in others:
            needs = needs or other.requires_grad
        if needs:
            if node.dtype.kind != "f":
                needs = False
            elif not _grad_enabled.get():
                node, needs = detached(node), False
        return self._new(node, needs)

    def _view(self, node: UOp) -> Self:
        """The Tensor of a result that shows the same elements."""
        if node is self.uop:
            return self
        result = self._wrap(node)
        if self._buffer is not None:
            result._attach(self._buffer)
        return result

    def _attach(self, buffer: UOp) -> None:
        self._buffer = buffer
        known = storage(buffer)
        if known.tensors is None:
            known.tensors = IdentitySet()
        known.tensors.add(self)

    def _release(self) -> None:
        """No longer be a view of a buffer."""
        if self._buffer is not None:
            storage(self._buffer).tensors.discard(self)
            self._buffer = None

    def _adopt(self, node: UOp) -> None:
        """Become the view `node` of a buffer."""
        self.uop = node
        buffer = buffer_of(node)
        if buffer is not None:
            self._attach(buffer)

    # -- facts ---------------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        shape = self.uop.shape
        assert shape is not None
        return shape

    @property
    def dtype(self) -> DType:
        return self.uop.dtype

    @property
    def device(self) -> str:
        """Name of the device that holds the value (constants: of the default device)."""
        return self.uop.device or placement.default_device_name()

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def is_leaf(self) -> bool:
        """Whether :meth:`backward` puts a gradient into this Tensor's `grad`."""
        return self._buffer is not None and leaf_of(self._buffer) is self or not self.requires_grad

    # -- memory --------------------------------------------------------------------------------

    def _own_memory(self, value: UOp | None = None) -> None:
        """Unless this is memory already, make it so, filled with `value` (default: its value)."""
        if self._buffer is None:
            buffer = placement.reserve(self.uop.size, self.dtype, self.device)
            view = buffer.reshape(self.shape)
            state = buffer.after(view.store(self.uop if value is None else value))
            self._adopt(state.reshape(self.shape))
            _pending.written[weakref.ref(buffer)] = None

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Ask for (or no longer ask for) this Tensor's gradient. Returns the Tensor itself.

        Raises DTypeError for other than floating-point dtypes.
        """
        if requires_grad and not self.requires_grad:
            if self.dtype.kind != "f":
                raise DTypeError(
                    f"[requires_grad_] dtype {self.dtype.name}; only floating-point tensors have "
                    "gradients"
                )
            # A leaf is known in graphs by its buffer, so it needs one that no other Tensor has.
            plain = self.uop.src[0] if self.uop.op is Op.RESHAPE else self.uop
            whole = self._buffer is not None and state_of(plain) is plain
            if not whole or len(aliases(self._buffer)) > 1:  # type: ignore[arg-type]
                self._release()
                self._own_memory()
            assert self._buffer is not None
            storage(self._buffer).leaf = weakref.ref(self)
        elif not requires_grad and self.requires_grad:
            if self.is_leaf and self._buffer is not None:
                storage(self._buffer).leaf = None
            else:
                self.uop = detached(self.uop)
        self.requires_grad = requires_grad
        return self

    def _write(self, target: UOp, value: UOp, op: Op | None = None) -> None:
        """STORE `value` to `target`, a view of this Tensor's node; every alias sees it."""
        state = state_of(self.uop)
        assert state is not None and self._buffer is not None
        new = state.after(target.store(value, arg=op))
        for alias in aliases(self._buffer):
            alias.uop = _with_state(alias.uop, new)
        _pending.written[weakref.ref(self._buffer)] = None
        forget_origin(self._buffer)

    def _settle(self) -> None:
        """Drop the graph that has just been computed, where no gradient needs it any more."""
        if self._buffer is None and not self.requires_grad:
            view = realized(self.uop)
            buffer = buffer_of(view)
            # Equal expressions share a buffer, which then must not be assigned to.
            if buffer is not None and not (known := buffer.held or storage(buffer)).tensors:
                known.origin = weakref.ref(self.uop)
                self.uop = view
                self._buffer = buffer
                known.tensors = shown = IdentitySet()
                shown.add(self)

    def realize(self, *others: TensorBase) -> Self:
        """Compute this Tensor (and the others, together) now. Returns the Tensor itself."""
        realize_all((self, *others))
        return self

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array of its own (bfloat16: as ml_dtypes' type)."""
        import numpy as np

        realize_all((self,))
        values = placement.fetch(self.uop)
        try:
            return np.array(values)
        except MemoryError as error:
            raise OutOfMemoryError(
                f"[allocate] {values.nbytes} bytes for a NumPy array; this machine has not as many"
            ) from error

    def item(self) -> Scalar:
        """The only element as a Python number. Raises ShapeError where there are others."""
        if self.uop.size != 1:
            raise ShapeError(f"[item] shape {self.shape}; only one element can become a number")
        return self.numpy().reshape(()).item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers; a number for no dims."""
        return self.numpy().tolist()

    def detach(self) -> Self:
        """The same values, through which no gradient flows."""
        if not self.requires_grad:
            return self._view(detached(self.uop))
        result = self._new(detached(self.uop))
        if self._buffer is not None:
            result._attach(self._buffer)
        return result

    # -- operands ------------------------------------------------------------------------------

    def _operand(self, value: TensorBase | Scalar, dtype: DType) -> UOp:
        """The node of an operand, converted to `dtype`, not yet broadcast."""
        if isinstance(value, TensorBase):
            return value.uop.cast(dtype)
        return constant(value, dtype)

    def _plain_operand(self, value: Any) -> TensorBase | Scalar:
        """NumPy scalars as Python numbers, NumPy arrays as Tensors."""
        if isinstance(value, (TensorBase, int, float)) or not hasattr(value, "__array__"):
            return value
        if value.ndim == 0:
            return value.item()
        return type(self)(value, device=self.uop.device)  # type: ignore[call-arg]

    def _match(self, op: str, *values: TensorBase | Scalar) -> tuple[DType, list[UOp]]:
        """The operands brought to one dtype and one shape, self first."""
        dtype, number = self.dtype, None
        shapes: list[Shape] = [self.shape]
        tensors: list[TensorBase] = [self]
        values = tuple(self._plain_operand(value) for value in values)
        for value in values:
            if isinstance(value, TensorBase):
                if value.dtype is not dtype:
                    dtype = dtypes.PROMOTION[dtype, value.dtype]
                shapes.append(value.shape)
                tensors.append(value)
            else:
                check_number(op, value)
                if number is None or _rank(value) > _rank(number):
                    number = value
        same_device(op, *tensors)
        if number is not None:
            dtype = dtypes.promote_weak(dtype, number)
        shape = broadcast_shapes(op, *shapes)
        nodes = [broadcast(self.uop.cast(dtype), shape)]
        nodes += [broadcast(self._operand(value, dtype), shape) for value in values]
        return dtype, nodes


def same_device(op: str, *tensors: TensorBase) -> None:
    """Raises DeviceError where the tensors lie on different devices (constants lie on none)."""
    found = None
    for tensor in tensors:
        device = tensor.uop.device
        if device is not None and device != found:
            if found is not None:
                raise DeviceError(f"[{op}] tensors on {found} and {device}; move one with .to()")
            found = device


def _rank(value: Scalar) -> int:
    return 0 if isinstance(value, bool) else 1 if isinstance(value, int) else 2


def check_number(op: str, value: object) -> None:
    """Raises DTypeError unless `value` is a Python (or NumPy) real number."""
    if not isinstance(value, (bool, int, float)):
        raise DTypeError(
            f"[{op}] operand of type {type(value).__name__}; it must be a Tensor or a number"
        )


def realize_all(tensors: tuple[TensorBase, ...] | list[TensorBase]) -> None:
    """Compute all these Tensors together, and carry out the assigns that are pending."""
    with placement.lock:
        nodes = [tensor.uop for tensor in tensors]
        written = _pending.written
        states = _take_states(written) if written else {}
        placement.realize([*nodes, *states.values()] if states else nodes)
        for buffer in states:
            _renew(buffer)
        for tensor in tensors:
            tensor._settle()


def _take_states(written: dict[weakref.ref[UOp], None]) -> dict[UOp, UOp]:
    """The states that the BUFFERs written to are to reach; they are pending no more."""
    states: dict[UOp, UOp] = {}
    for reference in list(written):
        buffer = reference()
        if buffer is None:
            continue
        for alias in aliases(buffer):
            state = state_of(alias.uop)
            if state is not None:
                states[buffer] = state
                break
    written.clear()
    return states


def _renew(buffer: UOp) -> None:
    """Let the Tensors that show a written buffer know its memory by a new BUFFER.

    The old BUFFER goes on to mean what was in the memory before: a graph built on it, of which
    somebody may keep the result, is never mistaken for the same expression of the new values.
    """
    leaf = leaf_of(buffer)
    shown = aliases(buffer)
    if leaf is None and any(alias.requires_grad for alias in shown):
        return  # gradients flow through the writes
    new = placement.renewed(buffer)
    for alias in shown:
        alias._release()
        alias.uop = _with_state(alias.uop, new)
        alias._attach(new)
    if leaf is not None:
        storage(new).leaf = weakref.ref(leaf)
