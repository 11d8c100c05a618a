"""What both base renderers share: the state of a kernel's text while it is written."""

from __future__ import annotations

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel, buffer_of
from dovetile.plugins.specs import Capabilities


class Writer:
    """The text of one function as it grows, and the name of every value in it."""

    def __init__(self, kernel: LinearKernel) -> None:
        self.kernel = kernel
        self.lines: list[str] = []
        """The body."""
        self.entry: list[str] = []
        """What stands before the body: storage of REG buffers, pointers to LOCAL ones."""
        self.names: dict[UOp, str] = {}
        self.declarations: dict[str, None] = {}
        """Lines outside the function, each once."""
        self.counter = 0
        self.block = "entry"
        """Where a language has basic blocks: the one that is being written."""
        self.loops: dict[UOp, tuple[int, str]] = {}
        """Open loops: the line that begins the loop, and the block before it."""
        self.declared: set[str] = set()
        """Names that must be declared once, and have been."""
        self.divisors: dict[UOp, int] = {}
        self.bytes: dict[UOp, str] = {}
        """Vectors of bool as they were loaded, one byte each."""
        self.arrays: set[UOp] = set()
        """REG buffers that need addresses; the others are so many separate registers."""
        self.gated: set[UOp] = set()
        """Addresses that may lie out of bounds, where their gate is false."""
        for node in kernel.uops:
            if node.op is Op.LOAD or node.op is Op.STORE:
                self._survey(node)
        self.streams = False
        """Whether a store passes by the caches."""

    def _survey(self, node: UOp) -> None:
        address = node.src[0]
        value = node.dtype if node.op is Op.LOAD else node.src[1].dtype
        if len(node.src) == 3:
            self.gated.add(address)
        buffer = buffer_of(address)
        if buffer.arg.space is AddressSpace.REG:
            if address.src[1].op is not Op.CONST or value is not buffer.dtype:
                self.arrays.add(buffer)

    def emit(self, text: str) -> str:
        """Adds `register = text`; returns the register."""
        self.counter = number = self.counter + 1
        self.lines.append(f"  %v{number} = {text}")
        return f"%v{number}"

    def begin(self, block: str) -> None:
        """Begins a basic block."""
        self.lines.append(f"{block}:")
        self.block = block

    def intrinsic(self, name: str, result: str, *types: str) -> str:
        """Declares an intrinsic function once; returns its name."""
        self.declarations[f"declare {result} @{name}({', '.join(types)})"] = None
        return f"@{name}"


def indices_fit(kernel: LinearKernel, bits: int) -> bool:
    """Whether no index of a kernel can leave the signed integers of so many bits."""
    limit = 1 << (bits - 1)
    return all(
        -limit <= node.minimum and node.maximum < limit
        for node in kernel.uops
        if node.dtype.name == "index"
    )


def kind_of(dtype: DType) -> str:
    """Column of the renderers' tables: b(ool), u(nsigned), i (signed), f(loat) or x (index)."""
    return "x" if dtype.name == "index" else dtype.kind


def bits_only(capabilities: Capabilities) -> frozenset[str]:
    """Small floats that the target neither computes in nor converts: to it they are their bits.

    A target that converts them to and from float32 says so by CAST_float16, for example, among its
    native ops; where it does not, `lower.decompose` converts by integer arithmetic.
    """
    native = capabilities.arithmetic_dtypes | {
        op.removeprefix("CAST_") for op in capabilities.native_ops
    }
    return frozenset(dtype.name for dtype in dtypes.SMALL_FLOATS) - native


def repeated_constant(node: UOp) -> Scalar | None:
    """The number that a constant, or every lane of a constant vector, is; else None."""
    if node.op is Op.VECTOR and len(node.src) == 1:
        node = node.src[0]
    return node.arg if node.op is Op.CONST else None
