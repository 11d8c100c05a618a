"""The three levels: which operations each has, and in what form."""

from __future__ import annotations

import math

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import (
    ELEMENTWISE,
    MOVEMENT,
    REDUCTIONS,
    AddressSpace,
    AxisKind,
    Box,
    BufferArg,
    Op,
    RangeArg,
    VariableArg,
)
from dovetile.ir.pattern import RuleSet
from dovetile.ir.spec.elementwise import Verdict, elementwise, form, named, program_elementwise
from dovetile.ir.uop import UOp
from dovetile.plugins.matrix_unit import GroupUnit, MatrixUnit

# -- Common to several levels ----------------------------------------------------------------------


def _sizes(arg: object) -> bool:
    return isinstance(arg, tuple) and all(type(n) is int and n >= 0 for n in arg)


def _variable(node: UOp) -> Verdict:
    arg = node.arg
    fits = isinstance(arg, VariableArg) and arg.minimum <= arg.maximum
    if node.src or not fits or node.dtype is not dtypes.index:
        return f"arg {arg!r}; right are no sources, VariableArg(name, least, greatest), index"
    return True


def _buffer(node: UOp) -> Verdict:
    arg = node.arg
    if node.src or not isinstance(arg, BufferArg) or not _sizes((arg.size,)):
        return f"arg {arg!r}; right are no sources and BufferArg(slot, size, space, device)"
    return True if node.dtype.kind != "v" else "type void; right is the type of the elements"


def _range(node: UOp) -> Verdict:
    if not isinstance(node.arg, RangeArg) or node.dtype is not dtypes.index:
        return f"arg {node.arg!r}, type {node.dtype!r}; right are RangeArg(id, kind) and index"
    if len(node.src) != 1 or node.src[0].dtype is not dtypes.index:
        return f"sources {named(s.dtype for s in node.src)}; right is (size), of type index"
    return True


def _special(node: UOp) -> Verdict:
    if len(node.src) != 1 or not isinstance(node.arg, str) or node.dtype is not dtypes.index:
        return f"arg {node.arg!r}; right are (size), a name and type index"
    return True


_ORDERED = frozenset(
    {
        Op.STORE, Op.END, Op.GROUP, Op.BARRIER, Op.COMMIT, Op.WAIT, Op.FETCH, Op.RANGE, Op.SPECIAL,
        Op.AFTER, Op.COPY, Op.SINK, Op.LOAD,
    }
)  # fmt: skip


def _after(node: UOp) -> Verdict:
    if not node.src or node.src[0].dtype is not node.dtype:
        return "no source of the node's type; right is (x, *effects)"
    wrong = [s.op.name for s in node.src[1:] if s.op not in _ORDERED]
    return f"effects {wrong}; right are STORE, END, GROUP, BARRIER or loops" if wrong else True


def _effects(node: UOp) -> Verdict:
    wrong = [s.op.name for s in node.src if s.op not in _ORDERED]
    return f"sources {wrong}; right are effects" if wrong else True


def _barrier(node: UOp) -> Verdict:
    if node.arg not in ("workgroup", "grid", "launch"):
        return f'arg {node.arg!r}; right is "workgroup", "grid" or "launch"'
    return True


def _wait(node: UOp) -> Verdict:
    if node.arg is None:
        if len(node.src) < 2 or node.src[0].op is not Op.INDEX:
            return "no address of arrivals; right is (INDEX, round, *effects)"
        return True
    if type(node.arg) is not int or node.arg < 0:
        return f"arg {node.arg!r}; right is how many groups may still be under way"
    return True


def _fetch(node: UOp) -> Verdict:
    if not isinstance(node.arg, Box) or len(node.src) != 4 + len(node.arg.sizes):
        return f"{len(node.src)} sources for {node.arg!r}; right is a coordinate for every axis"
    place, arrivals, gate, source = node.src[:4]
    kinds = (place.op, arrivals.op, gate.dtype.kind, source.op)
    if kinds != (Op.INDEX, Op.INDEX, "b", Op.BUFFER):
        return f"sources {kinds}; right is (INDEX, INDEX, gate, BUFFER, *coordinates)"
    return True


def _stage(node: UOp) -> Verdict:
    arg = node.arg
    if not (
        isinstance(arg, tuple)
        and len(arg) == 2
        and isinstance(arg[0], AddressSpace)
        and type(arg[1]) is int
        and arg[1] >= 1
    ):
        return f"arg {arg!r}; right is (AddressSpace, depth), depth >= 1"
    if not node.src or node.src[0].dtype is not node.dtype:
        return "no source of the node's type; right is (x, *ranges)"
    return _closes_ranges(node)


def _closes_ranges(node: UOp) -> Verdict:
    wrong = [s.op.name for s in node.src[1:] if s.op is not Op.RANGE]
    return f"closes {wrong}; right are RANGEs" if wrong else True


def _sink(node: UOp) -> Verdict:
    return True


# -- Tensor level ----------------------------------------------------------------------------------


def _tensor_elementwise(node: UOp) -> Verdict:
    """Elementwise forms, and one shape."""
    verdict = elementwise.match(node)
    if verdict is not True:
        return verdict if isinstance(verdict, str) else "an operation of the program level"
    if any(s.shape is None for s in node.src):
        return "an effect as operand; right are values"
    shape = node.src[0].shape
    if any(s.shape != shape for s in node.src):
        shapes = ", ".join(str(s.shape) for s in node.src)
        return f"shapes {shapes}; right is one shape for all operands"
    return True


def _movement(node: UOp) -> Verdict:
    if len(node.src) != 1 or node.src[0].dtype is not node.dtype or node.src[0].shape is None:
        return f"sources {named(s.dtype for s in node.src)}; right is one value of the node's type"
    op, arg, shape = node.op, node.arg, node.src[0].shape
    pairs = isinstance(arg, tuple) and len(arg) == len(shape) and all(
        isinstance(p, tuple) and len(p) == 2 and _sizes(p) for p in arg
    )  # fmt: skip
    if op is Op.RESHAPE or op is Op.EXPAND:
        fits = _sizes(arg)
        right = "sizes >= 0"
        if op is Op.RESHAPE and fits:
            fits, right = math.prod(arg) == node.src[0].size, "as many elements as before"
    elif op is Op.PERMUTE:
        fits = isinstance(arg, tuple) and sorted(arg) == list(range(len(shape)))
        right = "every axis once"
    elif op is Op.FLIP:
        fits = _sizes(arg) and len(set(arg)) == len(arg) and all(a < len(shape) for a in arg)
        right = "axes, each at most once"
    elif op is Op.PAD:
        fits, right = pairs, "(before, after), both >= 0, for every axis"
    else:
        fits = pairs and all(a <= b <= n for (a, b), n in zip(arg, shape))
        right = "0 <= start <= stop <= size for every axis"
    return True if fits else f"arg {arg!r} on shape {shape}; right are {right}"


def _tensor_reduce(node: UOp) -> Verdict:
    arg = node.arg
    if len(node.src) != 1 or node.src[0].dtype is not node.dtype:
        return f"sources {named(s.dtype for s in node.src)}; right is one of the node's type"
    if not (isinstance(arg, tuple) and len(arg) == 2 and arg[0] in REDUCTIONS):
        return f"arg {arg!r}; right is (ADD, MUL, MAX or MIN, number of axes)"
    count = len(node.src[0].shape)
    return True if 0 < arg[1] <= count else f"arg {arg!r}; right are 1 to {count} axes"


def _tensor_index(node: UOp) -> Verdict:
    if len(node.src) < 2 or node.src[0].dtype is not node.dtype:
        return "no index, or another type than the source; right is (x, i0, ...), of x's type"
    x, *positions = node.src
    if any(i.dtype is not dtypes.index or i.shape != positions[0].shape for i in positions):
        found = [(repr(i.dtype), i.shape) for i in positions]
        return f"indices {found}; right are index-dtype tensors of one shape"
    if len(positions) > len(x.shape):
        return f"{len(positions)} indices for shape {x.shape}; right is at most one for an axis"
    if node.arg is not None and not isinstance(node.arg, str):
        return f"arg {node.arg!r}; right is None or the text for a fault"
    return True


def _tensor_store(node: UOp) -> Verdict:
    if len(node.src) != 2 or node.dtype is not dtypes.void:
        return f"{len(node.src)} sources, type {node.dtype!r}; right is (target, x), of type void"
    target, x = node.src
    if target.dtype is not x.dtype or target.shape != x.shape:
        return (
            f"{x.dtype!r} {x.shape} into {target.dtype!r} {target.shape}; "
            "right is one type and one shape"
        )
    if node.arg is not None and node.arg not in REDUCTIONS:
        return f"arg {node.arg!r}; right is None or a reduce op"
    memory = target
    while memory.op in _VIEWS:
        memory = memory.src[0]
    if memory.op is not Op.BUFFER:
        return f"target made by {memory.op.name}; right is a view of a BUFFER"
    return True


_VIEWS = (MOVEMENT - {Op.PAD, Op.EXPAND}) | {Op.INDEX, Op.AFTER, Op.STAGE, Op.BITCAST}


def _iota(node: UOp) -> Verdict:
    if node.src or not _sizes((node.arg,)) or not node.dtype.is_integer:
        return f"arg {node.arg!r}, type {node.dtype!r}; right are a size >= 0 and an integer type"
    return True


def _copy(node: UOp) -> Verdict:
    if len(node.src) != 1 or node.src[0].dtype is not node.dtype or not isinstance(node.arg, str):
        return f"arg {node.arg!r}; right are (x) and a device name"
    return True


TENSOR = RuleSet(
    [
        form(ELEMENTWISE - {Op.SUB, Op.MULACC}, _tensor_elementwise),
        form(MOVEMENT, _movement),
        form(Op.REDUCE, _tensor_reduce),
        form(Op.INDEX, _tensor_index),
        form(Op.STORE, _tensor_store),
        form(Op.IOTA, _iota),
        form(Op.COPY, _copy),
        form(Op.VARIABLE, _variable),
        form(Op.BUFFER, _buffer),
        form(Op.AFTER, _after),
        form(Op.GROUP, _effects),
        form(Op.STAGE, _stage),
        form(Op.SINK, _sink),
        *(rule for rule in elementwise.rules if Op.CONST in rule[0].op_list),
    ],
    "tensor level",
)

# -- Loop level ------------------------------------------------------------------------------------

_MEMORY = frozenset({Op.BUFFER, Op.AFTER, Op.STAGE})


def _address(node: UOp) -> Verdict:
    """(buffer, flat index)"""
    if len(node.src) != 2 or node.src[0].op not in _MEMORY:
        return f"sources {[s.op.name for s in node.src]}; right is (memory, flat index)"
    memory, position = node.src
    if position.dtype.scalar is not dtypes.index:
        return f"index of type {position.dtype!r}; right is index"
    if node.dtype is not memory.dtype and node.dtype is not memory.dtype.scalar:
        return f"type {node.dtype!r} into {memory.dtype!r}; right is the type of the elements"
    return True


def _access_dtype(address: UOp, dtype: DType) -> Verdict:
    """Whether a value of `dtype` can be read or written there."""
    if address.op is not Op.INDEX:
        return f"first source {address.op.name}; right is an INDEX"
    if dtype.scalar is not address.dtype.scalar:
        return f"value {dtype!r} at an address of {address.dtype!r}; right is one type"
    memory, lanes = address.src[0].dtype, address.src[1].dtype.lanes
    if lanes not in (1, dtype.lanes):
        return f"value {dtype!r} at {lanes} positions; right is one position, or one for a lane"
    if memory.lanes > 1 and dtype.lanes != memory.lanes:
        return f"value {dtype!r} of a buffer of {memory!r}; right are whole elements"
    return True


def _gate(gate: UOp, dtype: DType) -> Verdict:
    if gate.dtype.kind == "b" and gate.dtype.lanes in (1, dtype.lanes):
        return True
    return f"gate {gate.dtype!r}; right is bool, one or as many lanes as the value"


def _load(node: UOp) -> Verdict:
    if len(node.src) not in (1, 3) or node.arg not in (None, "held")[: len(node.src)]:
        return f"{len(node.src)} sources; right is (INDEX) or (INDEX, alternative, gate)"
    verdict = _access_dtype(node.src[0], node.dtype)
    if verdict is not True or len(node.src) == 1:
        return verdict
    if node.src[1].dtype is not node.dtype:
        return f"alternative {node.src[1].dtype!r}; right is {node.dtype!r}"
    return _gate(node.src[2], node.dtype)


def _store(node: UOp) -> Verdict:
    if len(node.src) not in (2, 3) or node.dtype is not dtypes.void:
        return f"{len(node.src)} sources, type {node.dtype!r}; right is (INDEX, x) or with a gate"
    if node.arg not in (None, "streaming", "async", "arrivals"):
        return f"arg {node.arg!r}; right is None, 'streaming', 'async' or 'arrivals'"
    verdict = _access_dtype(node.src[0], node.src[1].dtype)
    if verdict is not True or len(node.src) == 2:
        return verdict
    return _gate(node.src[2], node.src[1].dtype)


def _loop_reduce(node: UOp) -> Verdict:
    if isinstance(node.arg, MatrixUnit):
        return _unit_reduce(node, node.arg)
    if node.arg not in REDUCTIONS:
        return f"arg {node.arg!r}; right is ADD, MUL, MAX or MIN, or a MatrixUnit"
    if len(node.src) < 2 or node.src[0].dtype is not node.dtype:
        return "no value of the node's type, or no loop; right is (x, *ranges)"
    return _closes_ranges(node)


def _unit_reduce(node: UOp, unit: MatrixUnit) -> Verdict:
    product = node.src[0]
    operands = [(s.src[0] if s.op is Op.CAST else s).dtype.name for s in product.src]
    if product.op is not Op.MUL or operands != [unit.a, unit.b]:
        return f"of {product.op.name}, operands {operands}; right are {unit.a} * {unit.b}, cast"
    if node.dtype.name != unit.accumulator or product.dtype is not node.dtype:
        return f"type {node.dtype!r}; right is {unit.accumulator}"
    return _closes_ranges(node)


def _matmul(node: UOp) -> Verdict:
    unit = node.arg
    if not isinstance(unit, MatrixUnit):
        return f"arg {unit!r}; right is a MatrixUnit"
    if isinstance(unit, GroupUnit):
        a, b, c = node.src
        depth = unit.rows * unit.depth // unit.threads
        from_a = a.dtype.name == unit.a and (
            a.dtype.lanes == depth if unit.held else a.op is Op.INDEX
        )
        fits = from_a and b.op is Op.INDEX and c.dtype is node.dtype and c.dtype.lanes == unit.lanes
        what = f"{depth} lanes, an address" if unit.held else "two addresses"
        return True if fits else f"type {node.dtype!r}; right are {what} and {unit.lanes} lanes"
    held = unit.rows * unit.columns
    right = [
        (unit.a, unit.rows * unit.depth), (unit.b, unit.depth * unit.columns),
        (unit.accumulator, held), (unit.accumulator, held),
    ]  # fmt: skip
    found = [(v.dtype.name, v.dtype.lanes) for v in (*node.src, node)]
    return True if found == right else f"a, b, c, result {found}; right are {right}"


def _end(node: UOp) -> Verdict:
    if len(node.src) < 2 or node.src[0].op not in _ORDERED:
        return f"sources {[s.op.name for s in node.src]}; right is (effect, *ranges)"
    return _closes_ranges(node)


def _group(node: UOp) -> Verdict:
    """Effects; or, as the body of a REDUCE, several values that are summed in turn."""
    if node.dtype is dtypes.void:
        return _effects(node)
    same = all(s.dtype is node.dtype for s in node.src)
    return True if same else f"sources {named(s.dtype for s in node.src)}; right is one type"


def _vector(node: UOp) -> Verdict:
    wanted, lanes = node.dtype.scalar, node.src[0].dtype.lanes
    if any(s.dtype is not wanted.vec(lanes) for s in node.src):
        return f"sources {named(s.dtype for s in node.src)}; right are {wanted!r}, of equal lanes"
    if len(node.src) * lanes == node.dtype.lanes or (len(node.src) == 1 and lanes == 1):
        return True
    return (
        f"{len(node.src) * lanes} lanes; right is one, or one for each of {node.dtype.lanes} lanes"
    )


def _extract(node: UOp) -> Verdict:
    if len(node.src) != 1:
        return f"{len(node.src)} sources; right is one vector"
    vector = node.src[0].dtype
    if not _sizes(node.arg) or any(lane >= vector.lanes for lane in node.arg):
        return f"arg {node.arg!r}; right is a tuple of lanes of {vector!r}"
    right = vector.vec(len(node.arg))
    return True if node.dtype is right else f"type {node.dtype!r}; right is {right!r}"


_KERNEL = [
    *program_elementwise.rules,  # first: they allow more of some operations
    *elementwise.rules,
    form(Op.VARIABLE, _variable),
    form(Op.BUFFER, _buffer),
    form(Op.SPECIAL, _special),
    form(Op.INDEX, _address),
    form(Op.LOAD, _load),
    form(Op.STORE, _store),
    form(Op.AFTER, _after),
    form(Op.BARRIER, _barrier),
    form(Op.COMMIT, _effects),
    form(Op.WAIT, _wait),
    form(Op.FETCH, _fetch),
    form(Op.SINK, _sink),
    form(Op.VECTOR, _vector),
    form(Op.EXTRACT, _extract),
]

LOOP = RuleSet(
    [
        *_KERNEL,
        form(Op.RANGE, _range),
        form(Op.REDUCE, _loop_reduce),
        form(Op.STAGE, _stage),
        form(Op.END, _end),
        form(Op.GROUP, _group),
    ],
    "loop level",
)

# -- Program level ---------------------------------------------------------------------------------


def _program_range(node: UOp) -> Verdict:
    verdict = _range(node)
    if verdict is True and node.arg.kind not in (AxisKind.LOOP, AxisKind.REDUCE):
        return f"kind {node.arg.kind!r}; right is a loop: other kinds have been lowered"
    return verdict


def _program_end(node: UOp) -> Verdict:
    if len(node.src) != 2:
        return f"{len(node.src)} sources; right is (effect, range): one loop for each END"
    return _end(node)


def _shuffle(node: UOp) -> Verdict:
    if len(node.src) != 1 or node.src[0].dtype is not node.dtype:
        return f"sources {named(s.dtype for s in node.src)}; right is one of the node's type"
    right = type(node.arg) is int and node.arg > 0
    return True if right else f"arg {node.arg!r}; right is what to XOR a thread's index with"


PROGRAM = RuleSet(
    [
        *_KERNEL,
        form(Op.RANGE, _program_range),
        form(Op.END, _program_end),
        form(Op.GROUP, _effects),
        form(Op.SHUFFLE, _shuffle),
        form(Op.MATMUL, _matmul),
    ],
    "program level",
)
