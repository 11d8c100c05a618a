"""The words of LLVM IR: its instructions, types and constants for our operations and dtypes."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.ir.ops import Op
from dovetile.plugins.specs import Capabilities
from dovetile.render.writer import bits_only, kind_of

# Instructions by operation and kind: b(ool), u(nsigned), i (signed), f(loat), x (index).
# Floats may be contracted (a * b + c in one rounding); they are never reordered.
INSTRUCTIONS: dict[Op, dict[str, str]] = {
    Op.ADD: {"b": "or", "u": "add", "i": "add", "f": "fadd contract", "x": "add nsw"},
    Op.SUB: {"b": "xor", "u": "sub", "i": "sub", "f": "fsub contract", "x": "sub nsw"},
    Op.MUL: {"b": "and", "u": "mul", "i": "mul", "f": "fmul contract", "x": "mul nsw"},
    Op.DIV: {"f": "fdiv contract"},
    Op.FLOORDIV: {"u": "udiv", "i": "udiv", "x": "udiv"},
    Op.FLOORMOD: {"u": "urem", "i": "urem", "x": "urem"},
    Op.LT: {"b": "icmp ult", "u": "icmp ult", "i": "icmp slt", "f": "fcmp olt", "x": "icmp slt"},
    Op.NE: {"b": "icmp ne", "u": "icmp ne", "i": "icmp ne", "f": "fcmp une", "x": "icmp ne"},
    Op.AND: {"b": "and", "u": "and", "i": "and", "x": "and"},
    Op.OR: {"b": "or", "u": "or", "i": "or", "x": "or"},
    Op.XOR: {"b": "xor", "u": "xor", "i": "xor", "x": "xor"},
    Op.SHL: {"u": "shl", "i": "shl", "x": "shl nsw"},
    Op.SHR: {"u": "lshr", "i": "ashr", "x": "ashr"},
    Op.MAX: {"b": "or"},
    Op.MIN: {"b": "and"},
}  # fmt: skip
INTRINSICS: dict[tuple[Op, str], str] = {
    (Op.MAX, "u"): "umax", (Op.MAX, "i"): "smax", (Op.MAX, "x"): "smax",
    (Op.MIN, "u"): "umin", (Op.MIN, "i"): "smin", (Op.MIN, "x"): "smin",
    # NaN if either operand is NaN; the order of -0 and +0 is left open ("nsz"), which saves
    # instructions.
    (Op.MAX, "f"): "maximum", (Op.MIN, "f"): "minimum",
    (Op.SQRT, "f"): "sqrt", (Op.TRUNC, "f"): "trunc", (Op.MULACC, "f"): "fma",
    (Op.EXP2, "f"): "exp2", (Op.LOG2, "f"): "log2", (Op.SIN, "f"): "sin",
}  # fmt: skip
# (from, to) kinds of a cast between types of different size or kind; bool sources are unsigned.
CONVERSIONS = {
    ("u", "f"): "uitofp", ("i", "f"): "sitofp", ("f", "u"): "fptoui", ("f", "i"): "fptosi",
}  # fmt: skip
TYPES = {
    "bool": "i1", "int8": "i8", "uint8": "i8", "int16": "i16", "uint16": "i16", "int32": "i32",
    "uint32": "i32", "int64": "i64", "uint64": "i64", "index": "i64", "float16": "half",
    "bfloat16": "bfloat", "float32": "float", "float64": "double",
}  # fmt: skip


class LlvmWords:
    """How one target writes operations, types and constants: tables that it may replace."""

    instructions: Mapping[Op, Mapping[str, str]] = INSTRUCTIONS
    intrinsics: Mapping[tuple[Op, str], str] = INTRINSICS
    types: Mapping[str, str] = TYPES

    def __init__(self, capabilities: Capabilities, index_bits: int = 64) -> None:
        self.capabilities = capabilities
        small = {name: f"i{getattr(dtypes, name).bits}" for name in bits_only(capabilities)}
        self.index_bits = index_bits
        self.types = {**self.types, **small, "index": f"i{index_bits}"}
        # Texts that recur with every node are made once: rendering is part of compile time.
        self._type_texts: dict[DType, str] = {}
        self._instructions: dict[tuple[Op, DType], str | None] = {}
        self._calls: dict[tuple[Op, DType], tuple[str, str, str]] = {}

    def bits(self, dtype: DType) -> int:
        """The width of a lane in a register."""
        return self.index_bits if dtype.name == "index" else dtype.bits

    def type(self, dtype: DType) -> str:
        """The type of a value in a register."""
        found = self._type_texts.get(dtype)
        if found is None:
            text = self.types[dtype.name]
            found = text if dtype.lanes == 1 else f"<{dtype.lanes} x {text}>"
            self._type_texts[dtype] = found
        return found

    def stored(self, dtype: DType) -> str:
        """The type of a value in memory."""
        return self.type(dtype if dtype.kind != "b" else dtypes.uint8.vec(dtype.lanes))

    def instruction(self, op: Op, operand: DType) -> str | None:
        """Instruction and type of an operation on two such operands; None if it is not just one."""
        key = (op, operand)
        if key not in self._instructions:
            name = self.instructions.get(op, {}).get(kind_of(operand))
            self._instructions[key] = name and f"{name} {self.type(operand)}"
        return self._instructions[key]

    def constant(self, value: Scalar, dtype: DType) -> str:
        """A constant without its type; the same number in every lane of a vector."""
        if dtype.lanes > 1:
            scalar = dtype.scalar
            return f"splat ({self.type(scalar)} {self.constant(value, scalar)})"
        if dtype.kind == "b":
            return "true" if value else "false"
        if dtype.kind != "f":
            return str(int(value))
        text = self.types[dtype.name]
        if dtype.itemsize <= 2:
            bits = dtype.pattern(value)
            return {"half": f"0xH{bits:04X}", "bfloat": f"0xR{bits:04X}"}.get(text, str(bits))
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
