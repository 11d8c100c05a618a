"""Writes a linear kernel as the text of a Python function, one statement per operation.

Values of dtype `index` are Python integers, other scalars are NumPy scalars (which wrap and round
as their dtype does), vectors are arrays.
"""

from __future__ import annotations

import math
from typing import Any

from dovetile.dtypes import DType
from dovetile.errors import UnsupportedError
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel, buffer_of

NATIVE_OPS = frozenset({"SQRT", "EXP2", "LOG2", "SIN", "TRUNC"})

INFIX = {
    Op.ADD: "+", Op.SUB: "-", Op.MUL: "*", Op.DIV: "/", Op.FLOORDIV: "//", Op.FLOORMOD: "%",
    Op.LT: "<", Op.NE: "!=", Op.AND: "&", Op.OR: "|", Op.XOR: "^", Op.SHL: "<<", Op.SHR: ">>",
}  # fmt: skip
# bool is a set of two: its sum is "or", its product "and".
BOOL_INFIX = {**INFIX, Op.ADD: "|", Op.MUL: "&", Op.SUB: "^", Op.MAX: "|", Op.MIN: "&"}
FUNCTIONS = {
    Op.MAX: "np.maximum", Op.MIN: "np.minimum", Op.SQRT: "np.sqrt", Op.EXP2: "np.exp2",
    Op.LOG2: "np.log2", Op.SIN: "np.sin", Op.TRUNC: "np.trunc",
}  # fmt: skip


class PythonRenderer:
    language = "python"

    def render(self, kernel: LinearKernel) -> str:
        writer = _Writer(kernel)
        for node in kernel.uops:
            writer.write(node)
        return "\n".join([*writer.lines, ""])


class _Writer:
    def __init__(self, kernel: LinearKernel) -> None:
        self.lines = [
            "import numpy as np",
            "from dovetile_npy.operations import *",
            f"def {kernel.name}(buffers, variables, part):",
            f"    local = np.empty({kernel.local_bytes}, np.uint8)",
        ]
        self.indent = "    "
        self.names: dict[UOp, str] = {}
        self.slots = {buffer: i for i, buffer in enumerate(kernel.buffers)}
        self.variables = {variable: i for i, variable in enumerate(kernel.variables)}

    def write(self, node: UOp) -> None:
        if node.op is Op.RANGE:
            name = self.names[node] = f"i{len(self.names)}"
            self.line(f"for {name} in range({self.names[node.src[0]]}):")
            self.indent += "    "
            self.line("pass")
        elif node.op is Op.END:
            self.indent = self.indent[:-4]
        elif node.op is Op.STORE:
            self.store(node)
        elif node.op is Op.CONST:
            self.names[node] = self.constant(node.arg, node.dtype)
        elif node.op is Op.AFTER:
            self.names[node] = self.names[node.src[0]]
        elif node.op not in (Op.GROUP, Op.SINK, Op.BARRIER, Op.INDEX):
            name = f"v{len(self.names)}"
            self.line(f"{name} = {self.value(node)}")
            self.names[node] = name

    def line(self, text: str) -> None:
        self.lines.append(self.indent + text)

    def constant(self, value: Any, dtype: DType) -> str:
        text = repr(value)
        if isinstance(value, float) and not math.isfinite(value):
            text = f"float('{value}')"
        if dtype.lanes > 1:
            return f"np.full({dtype.lanes}, {text}, DTYPES['{dtype.name}'])"
        return text if dtype.name == "index" else f"DTYPES['{dtype.name}'].type({text})"

    def value(self, node: UOp) -> str:
        op, dtype = node.op, node.dtype
        src = [self.names.get(s, "") for s in node.src]
        of = node.src[0].dtype if node.src else dtype
        if op is Op.BUFFER:
            return self.buffer(node)
        if op is Op.VARIABLE:
            return f"variables[{self.variables[node]}]"
        if op is Op.SPECIAL and node.arg == "part":
            return "part"
        if op is Op.LOAD:
            return self.load(node)
        infix = (BOOL_INFIX if of.kind == "b" else INFIX).get(op)
        if infix is not None:
            text = f"{src[0]} {infix} {src[1]}"
            # Comparing Python integers gives a Python bool, of which `+` would make an integer.
            return f"np.bool_({text})" if dtype.kind == "b" and dtype.lanes == 1 else text
        if op in (Op.MAX, Op.MIN) and dtype.name == "index" and dtype.lanes == 1:
            return f"{op.name.lower()}({src[0]}, {src[1]})"
        if op in FUNCTIONS:
            return f"{FUNCTIONS[op]}({', '.join(src)})"
        if op is Op.CAST and dtype.name == "index" and dtype.lanes == 1:
            return f"int({src[0]})"
        if op is Op.CAST or op is Op.BITCAST:
            return f"{op.name.lower()}({src[0]}, '{dtype.name}')"
        if op is Op.WHERE:
            if node.src[0].dtype.lanes > 1:
                return f"np.where({', '.join(src)})"
            return f"{src[1]} if {src[0]} else {src[2]}"
        if op is Op.VECTOR:
            lanes = f"[{src[0]}] * {dtype.lanes}" if len(src) == 1 else f"[{', '.join(src)}]"
            return f"np.array({lanes}, DTYPES['{dtype.name}'])"
        if op is Op.EXTRACT:
            lanes = list(node.arg) if len(node.arg) > 1 else node.arg[0]
            text = f"{src[0]}[{lanes}]"
            return f"int({text})" if dtype.name == "index" and dtype.lanes == 1 else text
        raise UnsupportedError(f"[render] {op.name} ({node.arg!r}); this device has none")

    # -- Memory ------------------------------------------------------------------------------

    def buffer(self, node: UOp) -> str:
        dtype, arg = node.dtype, node.arg
        scalar = f"DTYPES['{dtype.name}']"
        if arg.space is AddressSpace.GLOBAL:
            return f"buffers[{self.slots[node]}].view({scalar})"
        shape = (arg.size, dtype.lanes) if dtype.lanes > 1 else (arg.size,)
        if arg.space is AddressSpace.REG:
            return f"np.empty({shape}, {scalar})"
        end = arg.slot + arg.size * dtype.lanes * dtype.itemsize
        return f"local[{arg.slot}:{end}].view({scalar}).reshape({shape})"

    def load(self, node: UOp) -> str:
        address, *gated = node.src
        buffer, position = (self.names[s] for s in address.src)
        alternative, gate = [self.names[s] for s in gated] or ("", "")
        if self.is_whole(address, node.dtype):
            text = f"load({buffer}, {position})"
            return f"{text} if {gate} else {alternative}" if gate else text
        gates = f", {gate}, {alternative}" if gate else ""
        return f"gather({buffer}, positions({position}, {node.dtype.lanes}){gates})"

    def store(self, node: UOp) -> None:
        address, source, *gated = node.src
        buffer, position = (self.names[s] for s in address.src)
        value = self.names[source]
        if self.is_whole(address, source.dtype):
            condition = f"if {self.names[gated[0]]}: " if gated else ""
            self.line(f"{condition}store({buffer}, {position}, {value})")
        else:
            gate = f", {self.names[gated[0]]}" if gated else ""
            where = f"positions({position}, {source.dtype.lanes})"
            self.line(f"scatter({buffer}, {where}, {value}{gate})")

    def is_whole(self, address: UOp, dtype: DType) -> bool:
        """Whether a value is one element of its buffer: a scalar, or a vector in one of vectors."""
        return dtype.lanes == 1 or buffer_of(address).dtype.lanes == dtype.lanes
