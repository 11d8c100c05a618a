"""The one node type of the IR.

A UOp is immutable and interned: building a node that exists gives that node, so equality is
identity, common subexpressions share themselves, and derived facts are computed once per node.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.ir.ops import (
    COMPARISON,
    AddressSpace,
    AxisKind,
    BufferArg,
    Op,
    RangeArg,
    VariableArg,
)


class _Reference(weakref.ref):
    __slots__ = ("key",)


_table: dict[tuple, _Reference] = {}
_BUFFER, _CONST = Op.BUFFER, Op.CONST  # looking up a member of an Enum is slow before Python 3.12
_lock = threading.RLock()
# Canonical kernels number their loops from 0: a loop made later must not be one of those.
_range_ids = itertools.count(1 << 32)
_buffer_ids = itertools.count(1)


def _forget(reference: _Reference) -> None:
    with _lock:
        if _table.get(reference.key) is reference:
            del _table[reference.key]


class UOp:
    """A node: an operation, the type of its value, its sources and one argument.

    `arg` must be hashable. Nodes are compared by identity (`is`, `==` are the same thing).

    Facts are derived from the node when first asked for, and kept:

    * shape: sizes of the axes of a tensor-level value, () at other levels, None where there is no
      value. Raises GraphError where the sources do not fit.
    * ranges: the RANGEs this value depends on that no REDUCE, STAGE or END below has closed.
    * bounds: inclusive (least, greatest) value, the type's limits where nothing better is known.
    * device: canonical name of the device that holds the value, None for constants.
    """

    __slots__ = (
        "op", "dtype", "src", "arg", "__weakref__",
        "shape", "ranges", "bounds", "device",
        "_linear",  # of ir.symbolic.linear
        "_final",  # one bit for every RuleSet under which this node is known to be final
        "held",  # of ir.held: what hangs on the node while a program runs
    )  # fmt: skip

    op: Op
    dtype: DType
    src: tuple[UOp, ...]
    arg: Any
    # Typed Any, since at most places the level is known and with it that there is a shape.
    shape: Any
    ranges: frozenset[UOp]
    bounds: tuple[Scalar, Scalar]
    device: str | None
    held: Any

    def __new__(cls, op: Op, dtype: DType, src: tuple[UOp, ...] = (), arg: Any = None) -> UOp:
        # 0, 0.0, -0.0 and False are equal and hash alike, yet are different constants; so are NaNs
        # of one meaning: the representation tells them apart and brings them together.
        if op is _CONST:
            key = (op, dtype, src, type(arg), repr(arg))
        else:
            key = (op, dtype, src, arg)
        reference = _table.get(key)
        if reference is not None:
            found = reference()
            if found is not None:
                return found
        node = _new(cls)
        _put_op(node, op)
        _put_dtype(node, dtype)
        _put_src(node, src)
        _put_arg(node, arg)
        mark_final(node, 0)
        hold(node, None)
        fresh = _Reference(node, _forget)
        fresh.key = key
        # One atomic step, so that threads agree on which node is the one.
        if _table.setdefault(key, fresh) is fresh:
            return node
        with _lock:
            found = _table[key]() if key in _table else None
            if found is None:
                _table[key] = fresh
                return node
            return found

    def __getattr__(self, name: str) -> Any:
        """A fact that this node does not have yet: computed from the same fact of its sources,
        without recursion. (Facts are slots: once set, reading one costs no call.)"""
        if name not in _FACTS:
            raise AttributeError(f"[UOp] there is no {name!r} on a node")
        compute, read, put = _FACTS[name]
        if not self.src:
            value = compute(self)
            put(self, value)
            return value
        stack: list[UOp] = [self]
        while stack:
            current = stack[-1]
            count = len(stack)
            for s in current.src:
                try:
                    read(s)
                except AttributeError:
                    stack.append(s)
            if len(stack) == count:
                stack.pop()
                put(current, compute(current))
        return read(self)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"[UOp] {name} was set; nodes are immutable, build a new one instead")

    def __reduce__(self) -> tuple:
        # One flat list, so that neither pickle nor copy recurses over deep graphs.
        nodes = toposort(self)
        number = {node: i for i, node in enumerate(nodes)}
        rows = [(n.op, n.dtype, tuple(number[s] for s in n.src), n.arg) for n in nodes]
        return (_rebuild, (rows,))

    def __deepcopy__(self, memo: dict) -> UOp:
        return self

    def __copy__(self) -> UOp:
        return self

    def __repr__(self) -> str:
        from dovetile.ir.printer import format_node

        return format_node(self)

    def with_sources(self, src: tuple[UOp, ...]) -> UOp:
        """This node with other sources."""
        return self if src == self.src else UOp(self.op, self.dtype, src, self.arg)

    def replace(self, **changes: Any) -> UOp:
        """This node with some of op, dtype, src, arg changed."""
        return UOp(
            changes.get("op", self.op),
            changes.get("dtype", self.dtype),
            changes.get("src", self.src),
            changes.get("arg", self.arg),
        )

    @property
    def minimum(self) -> Scalar:
        return self.bounds[0]

    @property
    def maximum(self) -> Scalar:
        return self.bounds[1]

    # -- building ----------------------------------------------------------------------------------

    @staticmethod
    def const(value: Scalar, dtype: DType = dtypes.index) -> UOp:
        """A constant, rounded or wrapped to `dtype`."""
        if dtype is dtypes.index and type(value) is int:
            # Small ones are asked for all the time, and kept.
            found = _small_integers.get(value)
            if found is None:
                found = UOp(Op.CONST, dtype, (), dtype.convert(value))
                if -_SMALL <= value <= _SMALL:
                    _small_integers[value] = found
            return found
        return UOp(Op.CONST, dtype, (), dtype.convert(value))

    def const_like(self, value: Scalar) -> UOp:
        """The constant of this node's type: repeated in its lanes, or expanded to its shape."""
        constant = UOp.const(value, self.dtype.scalar)
        if self.dtype.lanes > 1:
            return UOp(Op.VECTOR, self.dtype, (constant,))
        shape = self.shape
        return UOp(Op.EXPAND, self.dtype, (constant,), shape) if shape else constant

    @staticmethod
    def range(size: int | UOp, kind: AxisKind = AxisKind.LOOP, id: int | None = None) -> UOp:
        """A new loop of `size` iterations (the same loop again when `id` is given)."""
        size = UOp.const(size) if isinstance(size, int) else size
        id = next(_range_ids) if id is None else id
        return UOp(Op.RANGE, dtypes.index, (size,), RangeArg(id, kind))

    @staticmethod
    def variable(name: str, minimum: int, maximum: int) -> UOp:
        """An integer known only at launch, minimum <= value <= maximum."""
        return UOp(Op.VARIABLE, dtypes.index, (), VariableArg(name, minimum, maximum))

    @staticmethod
    def buffer(
        size: int, dtype: DType, device: str | None = None, slot: int | None = None,
        space: AddressSpace = AddressSpace.GLOBAL,
    ) -> UOp:  # fmt: skip
        """Memory of `size` elements; a new identity unless `slot` is given."""
        slot = next(_buffer_ids) if slot is None else slot
        return UOp(_BUFFER, dtype, (), BufferArg(slot, size, space, device))

    def _coerce(self, other: UOp | Scalar) -> UOp:
        return other if isinstance(other, UOp) else self.const_like(other)

    def alu(self, op: Op, *others: UOp | Scalar) -> UOp:
        """An elementwise operation with this node as first operand; numbers are converted."""
        operands = (self, *[o if isinstance(o, UOp) else self.const_like(o) for o in others])
        dtype = operands[-1].dtype if op is Op.WHERE else self.dtype
        if op in COMPARISON:
            dtype = dtypes.bool_.vec(self.dtype.lanes)
        return UOp(op, dtype, operands)

    def __add__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.ADD, other)

    def __radd__(self, other: Scalar) -> UOp:
        return self._coerce(other).alu(Op.ADD, self)

    def __sub__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.ADD, self._coerce(other).alu(Op.MUL, -1))

    def __rsub__(self, other: Scalar) -> UOp:
        return self._coerce(other) - self

    def __neg__(self) -> UOp:
        return self.alu(Op.MUL, -1)

    def __mul__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.MUL, other)

    def __rmul__(self, other: Scalar) -> UOp:
        return self._coerce(other).alu(Op.MUL, self)

    def __truediv__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.DIV, other)

    def __floordiv__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.FLOORDIV, other)

    def __mod__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.FLOORMOD, other)

    def __and__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.AND, other)

    def __or__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.OR, other)

    def __xor__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.XOR, other)

    def __lshift__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.SHL, other)

    def __rshift__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.SHR, other)

    def __lt__(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.LT, other)

    def __gt__(self, other: UOp | Scalar) -> UOp:
        return self._coerce(other).alu(Op.LT, self)

    def __ge__(self, other: UOp | Scalar) -> UOp:
        """Integers only: for floats NaN would make it true."""
        return self.alu(Op.LT, other).logical_not()

    def __le__(self, other: UOp | Scalar) -> UOp:
        """Integers only: for floats NaN would make it true."""
        return self._coerce(other).alu(Op.LT, self).logical_not()

    def ne(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.NE, other)

    def eq(self, other: UOp | Scalar) -> UOp:
        return self.ne(other).logical_not()

    def logical_not(self) -> UOp:
        return self.alu(Op.XOR, True)

    def maximum_with(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.MAX, other)

    def minimum_with(self, other: UOp | Scalar) -> UOp:
        return self.alu(Op.MIN, other)

    def where(self, then: UOp, otherwise: UOp | Scalar) -> UOp:
        """`then` where this bool is true, else `otherwise`."""
        return UOp(Op.WHERE, then.dtype, (self, then, then._coerce(otherwise)))

    def cast(self, dtype: DType) -> UOp:
        """The value converted to `dtype` (lanes are kept)."""
        dtype = dtype.vec(self.dtype.lanes) if dtype.lanes == 1 else dtype
        return self if dtype is self.dtype else UOp(Op.CAST, dtype, (self,))

    def bitcast(self, dtype: DType) -> UOp:
        """The same bits read as `dtype`, which has the same size."""
        dtype = dtype.vec(self.dtype.lanes) if dtype.lanes == 1 else dtype
        return self if dtype is self.dtype else UOp(Op.BITCAST, dtype, (self,))

    # movement and reduction; the identity moves return the node itself
    def reshape(self, shape: tuple[int, ...]) -> UOp:
        return self if shape == self.shape else UOp(Op.RESHAPE, self.dtype, (self,), tuple(shape))

    def permute(self, order: tuple[int, ...]) -> UOp:
        if order == tuple(range(len(order))):
            return self
        return UOp(Op.PERMUTE, self.dtype, (self,), tuple(order))

    def expand(self, sizes: tuple[int, ...]) -> UOp:
        return UOp(Op.EXPAND, self.dtype, (self,), tuple(sizes)) if sizes else self

    def pad(self, amounts: tuple[tuple[int, int], ...]) -> UOp:
        if all(a == (0, 0) for a in amounts):
            return self
        return UOp(Op.PAD, self.dtype, (self,), tuple(amounts))

    def shrink(self, limits: tuple[tuple[int, int], ...]) -> UOp:
        if all(a == 0 and b == n for (a, b), n in zip(limits, self.shape)):
            return self
        return UOp(Op.SHRINK, self.dtype, (self,), tuple(limits))

    def flip(self, axes: tuple[int, ...]) -> UOp:
        return UOp(Op.FLIP, self.dtype, (self,), tuple(axes)) if axes else self

    def reduce(self, op: Op, count: int) -> UOp:
        """Reduces the last `count` axes (tensor level)."""
        return UOp(Op.REDUCE, self.dtype, (self,), (op, count)) if count else self

    # memory
    def index(self, position: UOp | int) -> UOp:
        """Address of element `position` of this buffer (loop and program level)."""
        position = UOp.const(position) if isinstance(position, int) else position
        return UOp(Op.INDEX, self.dtype.scalar, (self, position))

    def load(self, *gate: UOp, dtype: DType | None = None) -> UOp:
        """The value at this address; `gate` is (alternative, condition) or nothing."""
        return UOp(Op.LOAD, dtype or self.dtype, (self, *gate))

    def store(self, value: UOp, *gate: UOp, arg: Op | str | None = None) -> UOp:
        """The effect of writing `value` at this address or view."""
        return UOp(Op.STORE, dtypes.void, (self, value, *gate), arg)

    def after(self, *effects: UOp) -> UOp:
        return UOp(Op.AFTER, self.dtype, (self, *effects)) if effects else self

    def end(self, *ranges: UOp) -> UOp:
        """This effect with the loops closed, outermost first."""
        return UOp(Op.END, dtypes.void, (self, *ranges)) if ranges else self

    @staticmethod
    def group(*effects: UOp) -> UOp:
        return effects[0] if len(effects) == 1 else UOp(Op.GROUP, dtypes.void, effects)

    @staticmethod
    def sink(*values: UOp, arg: Any = None) -> UOp:
        return UOp(Op.SINK, dtypes.void, values, arg)

    def stage(self, *ranges: UOp, space: AddressSpace = AddressSpace.GLOBAL, depth: int = 1) -> UOp:
        """This value held in `space` for `ranges`."""
        return UOp(Op.STAGE, self.dtype, (self, *ranges), (space, depth))

    # -- reading -----------------------------------------------------------------------------------

    @property
    def is_const(self) -> bool:
        return self.op is Op.CONST

    @property
    def constant(self) -> Scalar | None:
        """The number that this value is everywhere: a CONST, one repeated in the lanes of a vector,
        or one expanded to a shape. None for any other value."""
        if self.op is Op.CONST:
            return self.arg
        if (self.op is Op.EXPAND or self.op is Op.VECTOR) and len(self.src) == 1:
            return self.src[0].arg if self.src[0].op is Op.CONST else None
        return None

    @property
    def size(self) -> int:
        """Number of elements of a tensor-level value."""
        return math.prod(self.shape)

    def toposort(self) -> list[UOp]:
        return toposort(self)


_new = object.__new__
_small_integers: dict[int, UOp] = {}
_SMALL = 4096
# The way past __setattr__.
_put_op, _put_dtype, _put_src, _put_arg, mark_final, hold = (
    UOp.__dict__[name].__set__ for name in ("op", "dtype", "src", "arg", "_final", "held")
)

# -- Facts -----------------------------------------------------------------------------------------

_NO_RANGES: frozenset[UOp] = frozenset()
# Ops that close ranges: all their sources but the first.
_CLOSING = frozenset({Op.REDUCE, Op.STAGE, Op.END})


def _ranges(node: UOp) -> frozenset[UOp]:
    src = node.src
    if node.op is Op.RANGE:
        return src[0].ranges | {node}
    if not src:
        return _NO_RANGES
    result = src[0].ranges
    if node.op in _CLOSING:
        return result.difference(src[1:]) if len(src) > 1 else result
    for s in src[1:]:
        other = s.ranges
        if other and other is not result:
            result = result | other if result else other
    return result


def _device(node: UOp) -> str | None:
    if node.op is Op.BUFFER:
        return node.arg.device
    if node.op is Op.COPY:
        return node.arg
    return next((s.device for s in node.src if s.device is not None), None)


def _shape(node: UOp) -> tuple[int, ...] | None:
    from dovetile.ir.shape import shape_of  # the module needs this one

    _FACTS["shape"] = (shape_of, *_FACTS["shape"][1:])  # an import costs more than the shape
    return shape_of(node)


def _bounds(node: UOp) -> tuple[Scalar, Scalar]:
    from dovetile.ir.bounds import bounds_of  # the module needs this one

    _FACTS["bounds"] = (bounds_of, *_FACTS["bounds"][1:])
    return bounds_of(node)


_FACTS: dict[str, tuple[Callable, Callable, Callable]] = {
    name: (compute, UOp.__dict__[name].__get__, UOp.__dict__[name].__set__)
    for name, compute in (
        ("shape", _shape), ("ranges", _ranges), ("bounds", _bounds), ("device", _device)
    )
}  # fmt: skip


# -- Graphs ----------------------------------------------------------------------------------------


def toposort(root: UOp | Iterable[UOp], enter: Callable[[UOp], bool] | None = None) -> list[UOp]:
    """Every node reachable from `root`, sources before users, each once; iterative.

    Nodes for which `enter` is false are listed, but their sources are not visited through them.
    """
    order: list[UOp] = []
    seen: set[UOp] = set()
    outer: list[tuple[UOp, Iterator[UOp]]] = []
    for node in [root] if isinstance(root, UOp) else list(root):
        if node in seen:
            continue
        seen.add(node)
        sources = iter(node.src if enter is None or enter(node) else ())
        while True:
            for child in sources:
                if child in seen:
                    continue
                seen.add(child)
                if child.src and (enter is None or enter(child)):
                    outer.append((node, sources))
                    node, sources = child, iter(child.src)
                    break
                order.append(child)
            else:
                order.append(node)
                if not outer:
                    break
                node, sources = outer.pop()
    return order


@lru_cache(maxsize=16)
def nodes_of(root: UOp) -> list[UOp]:
    """`toposort(root)`, remembered for the graphs last looked at: not to be changed."""
    return toposort(root)


def _rebuild(rows: list[tuple]) -> UOp:
    nodes: list[UOp] = []
    for op, dtype, sources, arg in rows:
        nodes.append(UOp(op, dtype, tuple(nodes[i] for i in sources), arg))
    return nodes[-1]


def consumers(nodes: list[UOp]) -> dict[UOp, list[UOp]]:
    """For every node the nodes of the list that use it, each once per user."""
    users: dict[UOp, list[UOp]] = {node: [] for node in nodes}
    for node in nodes:
        for s in dict.fromkeys(node.src):
            if s in users:
                users[s].append(node)
    return users
