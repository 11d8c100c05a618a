"""The operations of the IR. One enumeration serves the tensor graph, the loop nest and the program.

Every line says: sources -> what it means, and what `arg` holds.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple


class AddressSpace(Enum):
    """Where a BUFFER lives."""

    GLOBAL = "GLOBAL"  # device memory, visible to every kernel
    LOCAL = "LOCAL"  # shared memory of a workgroup; a cache-sized scratch panel on a CPU
    REG = "REG"  # registers of one thread

    __hash__ = object.__hash__  # each exists once; Enum's own is slower

    def __repr__(self) -> str:
        return f"AddressSpace.{self.name}"


class AxisKind(Enum):
    """What a RANGE is bound to."""

    LOOP = "LOOP"  # an ordinary loop
    REDUCE = "REDUCE"  # an ordinary loop, over which a REDUCE sums
    THREAD = "THREAD"  # parts of a kernel that run on different workers of a CPU-like device
    GROUP = "GROUP"  # workgroups of a grid
    LOCAL = "LOCAL"  # threads of a workgroup: a power of two of them
    UNROLL = "UNROLL"  # copies of the body
    VECTOR = "VECTOR"  # lanes of one vector value; those of several axes lie in order of their ids

    def __repr__(self) -> str:
        return f"AxisKind.{self.name}"


class BufferArg(NamedTuple):
    """What a BUFFER is: `slot` is its identity (or position, once inputs are slots), `size` counts
    elements, `device` is a canonical device name or None inside kernels."""

    slot: int
    size: int
    space: AddressSpace = AddressSpace.GLOBAL
    device: str | None = None


class RangeArg(NamedTuple):
    """Identity and binding of a RANGE. Two ranges of equal size are different loops."""

    id: int
    kind: AxisKind = AxisKind.LOOP


class Box(NamedTuple):
    """Part of a GLOBAL buffer, seen as an array: elements per axis, the innermost first."""

    extents: tuple[int, ...]
    """Of the array: what lies outside of it is read as zero."""
    strides: tuple[int, ...]
    """From one element to the next along each axis, 1 for the first."""
    sizes: tuple[int, ...]
    """Of the box."""
    exchanged: bool = False
    """Whether the pieces of the box's rows lie exchanged, as those of a matrix unit's panels."""


class VariableArg(NamedTuple):
    """A named integer known only at launch, with inclusive bounds."""

    name: str
    minimum: int
    maximum: int


class Op(Enum):
    """See the module text; `x`, `y` are values, `i` an index, `r` a RANGE."""

    # -- leaves
    CONST = auto()  # () -> a number; arg: Python bool/int/float
    BUFFER = auto()  # () -> memory of `arg.size` elements, shape (size,); arg: BufferArg
    IOTA = auto()  # () -> 0, 1, ..., n-1 with shape (n,); arg: n
    VARIABLE = auto()  # () -> an index; arg: VariableArg
    RANGE = auto()  # (size) -> the loop's counter, 0 <= r < size; arg: RangeArg
    # (size) -> a launch index, 0 <= s < size; arg "part" (of a THREAD axis), "group" (which
    # workgroup of the grid) or "local" (which thread of the workgroup)
    SPECIAL = auto()

    # -- movement (tensor level only; arg is always a tuple of ints)
    RESHAPE = auto()  # (x) arg: new shape
    PERMUTE = auto()  # (x) arg: order of old axes
    EXPAND = auto()  # (x) arg: sizes appended at the end, x is repeated along them
    PAD = auto()  # (x) arg: ((before, after), ...) zeros around
    SHRINK = auto()  # (x) arg: ((start, stop), ...)
    FLIP = auto()  # (x) arg: axes to reverse

    # -- reduction, addressing, memory, placement
    # tensor level: (x), arg (op, count): reduces the last `count` axes.
    # loop level: (x, *ranges), arg op: reduces over the ranges.  op in ADD, MUL, MAX, MIN, or a
    # MatrixUnit, which sums up x = CAST(a) * CAST(b): its fragments are the lanes of a and b
    REDUCE = auto()
    # tensor level: (x, i0, ..., ik-1) -> x[i0, ..., ik-1]: equally shaped index-dtype tensors
    # address the leading axes; each must lie in bounds.  arg: None, or the text for a fault.
    # loop/program level: (buffer, i) -> the address of element i (flat); i may be a vector.
    INDEX = auto()
    LOAD = auto()  # (INDEX) -> the value there; (INDEX, x, gate) -> x where the gate is false; arg
    # None, or "held": memory has x there, and may be read
    # tensor level: (target, x), target a view (movement or INDEX) of a BUFFER; arg None or a
    # reduce op
    # loop level: (INDEX, x) or (INDEX, x, gate), arg None, or how: "streaming" past the
    # caches, where the target can; "async" of a LOAD, done once a WAIT says so; "arrivals" of a
    # number to LOCAL memory, where from then on so many arrivals make a round
    STORE = auto()
    AFTER = auto()  # (x, *effects) -> x once the effects have happened
    END = auto()  # (effect, *ranges) closes loops around the effect, outermost first
    GROUP = auto()  # (*effects) effects that share their loops
    SINK = auto()  # (*effects or values) the root; kernels: arg a KernelInfo or None
    # (*effects or values, computed before) arg: "workgroup", "grid", or "launch": of all launches
    # before this one
    BARRIER = auto()
    COMMIT = auto()  # (*effects) the thread's asynchronous stores since the last COMMIT are a group
    # (*effects or values, computed before) all but the last `arg` groups of the thread are done;
    # (INDEX, i, *effects), arg None: round i of the arrivals there is
    WAIT = auto()
    # (INDEX of LOCAL memory, that of arrivals, gate, buffer, *coordinates) begins a copy of a box
    # of GLOBAL memory, which starts at these coordinates; it arrives when it is done. arg: Box
    FETCH = auto()
    STAGE = auto()  # (x, *ranges) holds x for these ranges there; arg: (AddressSpace, depth)
    COPY = auto()  # (x) x on another device; arg: device name
    # (x) x of all threads of the workgroup whose index differs in some of these bits, combined;
    # arg: (reduce op, bits)
    COMBINE = auto()
    SHUFFLE = auto()  # (x) x of the thread of the same warp whose index is this one's XOR arg

    # -- one operand
    CAST = auto()
    BITCAST = auto()
    # program level: arg None, or "approximate" where a few units in the last place do not matter,
    # nor results too small to be normal numbers
    EXP2 = auto()
    LOG2 = auto()
    SIN = auto()
    SQRT = auto()
    TRUNC = auto()

    # -- two operands (SUB and NEG exist at program level only: x + y * -1 before)
    ADD = auto()
    SUB = auto()
    MUL = auto()
    DIV = auto()  # floats; arg as of EXP2
    FLOORDIV = auto()  # integers, rounds to minus infinity; 0 where the divisor is 0
    FLOORMOD = auto()  # integers, sign of the divisor; 0 where the divisor is 0
    MAX = auto()  # NaN if either is NaN
    MIN = auto()
    LT = auto()  # -> bool
    NE = auto()  # -> bool
    AND = auto()
    OR = auto()
    XOR = auto()
    SHL = auto()
    SHR = auto()  # arithmetic for signed, logical for unsigned

    # -- three operands
    WHERE = auto()  # (bool, x, y)
    MULACC = auto()  # (x, y, z) -> x * y + z, rounded once

    # -- short vectors (program level)
    VECTOR = auto()  # (x, y, ...) lanes one after another; (x) repeated in every lane of the dtype
    EXTRACT = auto()  # (vector) arg: tuple of lanes; one lane gives a scalar
    MATMUL = auto()  # (a, b, c) -> a @ b + c, all fragments; arg: MatrixUnit

    def __repr__(self) -> str:
        return f"Op.{self.name}"

    # Enum's own hash goes through Python code; identity is right and several times faster.
    __hash__ = object.__hash__


MOVEMENT = frozenset({Op.RESHAPE, Op.PERMUTE, Op.EXPAND, Op.PAD, Op.SHRINK, Op.FLIP})
UNARY = frozenset({Op.CAST, Op.BITCAST, Op.EXP2, Op.LOG2, Op.SIN, Op.SQRT, Op.TRUNC})
BINARY = frozenset(
    {
        Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.FLOORDIV, Op.FLOORMOD, Op.MAX, Op.MIN, Op.LT, Op.NE,
        Op.AND, Op.OR, Op.XOR, Op.SHL, Op.SHR,
    }
)  # fmt: skip
TERNARY = frozenset({Op.WHERE, Op.MULACC})
ELEMENTWISE = UNARY | BINARY | TERNARY
COMPARISON = frozenset({Op.LT, Op.NE})
COMMUTATIVE = frozenset({Op.ADD, Op.MUL, Op.MAX, Op.MIN, Op.NE, Op.AND, Op.OR, Op.XOR})
ASSOCIATIVE = frozenset({Op.ADD, Op.MUL, Op.MAX, Op.MIN, Op.AND, Op.OR, Op.XOR})
REDUCTIONS = frozenset({Op.ADD, Op.MUL, Op.MAX, Op.MIN})
EFFECTS = frozenset({Op.STORE, Op.END, Op.GROUP, Op.SINK, Op.BARRIER, Op.COMMIT, Op.WAIT, Op.FETCH})
