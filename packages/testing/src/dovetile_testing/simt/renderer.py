"""Writes a linear kernel as the text of a Python function, one statement per operation."""

from __future__ import annotations

import math

from dovetile.dtypes import DType, Scalar
from dovetile.errors import UnsupportedError
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel, buffer_of
from dovetile.plugins import Capabilities

NATIVE_OPS = frozenset({"SQRT", "EXP2", "LOG2", "SIN", "TRUNC"})

INFIX = {
    Op.ADD: "+", Op.SUB: "-", Op.MUL: "*", Op.DIV: "/", Op.FLOORDIV: "//", Op.FLOORMOD: "%",
    Op.LT: "<", Op.NE: "!=", Op.AND: "&", Op.OR: "|", Op.XOR: "^", Op.SHL: "<<", Op.SHR: ">>",
}  # fmt: skip
# bool is a set of two: its sum is "or", its product "and".
BOOL_INFIX = {**INFIX, Op.ADD: "|", Op.MUL: "&", Op.SUB: "^", Op.MAX: "|", Op.MIN: "&"}
FUNCTIONS = {
    Op.MAX: "np.maximum", Op.MIN: "np.minimum", Op.SQRT: "np.sqrt", Op.EXP2: "np.exp2",
    Op.LOG2: "np.log2", Op.SIN: "np.sin", Op.TRUNC: "np.trunc", Op.WHERE: "select",
}  # fmt: skip


class PythonRenderer:
    language = "python"

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities

    def render(self, kernel: LinearKernel) -> str:
        for what, used, most in (
            ("threads of a workgroup", kernel.threads, self.capabilities.group_threads),
            ("bytes of LOCAL memory", kernel.local_bytes, self.capabilities.local_bytes),
        ):
            if used > most:
                raise UnsupportedError(
                    f"[render] {kernel.name}: {used} {what}; this device has {most}"
                )
        writer = _Writer(kernel, self.capabilities.warp)
        for node in kernel.uops:
            writer.write(node)
        return "\n".join([*writer.entry, *writer.body, ""])


class _Writer:
    """The text of one kernel as it grows."""

    def __init__(self, kernel: LinearKernel, warp: int) -> None:
        self.kernel, self.warp = kernel, warp
        buffers = tuple(
            (b.dtype.scalar.name, b.arg.size * b.dtype.lanes, b.arg.slot in kernel.written)
            for b in kernel.buffers
        )
        local = [
            n.dtype.scalar.itemsize
            for n in kernel.uops
            if n.op is Op.BUFFER and n.arg.space is AddressSpace.LOCAL
        ]
        groups, threads, nbytes = kernel.parts, kernel.threads, kernel.local_bytes
        self.entry = [
            "import numpy as np",
            "from dovetile_testing.simt.operations import bitcast, cast, select",
            "from dovetile_testing.simt.threads import Shape",
            f"shape = Shape({groups}, {threads}, {nbytes}, {min(local, default=1)}, {buffers})",
            f"def {kernel.name}(threads, variables):",
        ]
        """What stands before the body: the names of constants and memory."""
        self.body: list[str] = []
        self.indent = "    "
        self.names: dict[UOp, str] = {}
        self.slots = {buffer: i for i, buffer in enumerate(kernel.buffers)}
        self.variables = {variable: i for i, variable in enumerate(kernel.variables)}

    def write(self, node: UOp) -> None:
        """Add one operation."""
        names, op = self.names, node.op
        if op is Op.RANGE:
            names[node] = name = f"i{len(names)}"
            self.line(f"for {name} in threads.loop({names[node.src[0]]}):")
            self.indent += "    "
            self.line("pass")
        elif op is Op.END:
            self.indent = self.indent[:-4]
        elif op is Op.STORE:
            address, value, *gate = node.src
            arguments = [self.place(address, value.dtype), *(names[s] for s in (value, *gate))]
            self.line(f"threads.store({', '.join(arguments)})")
        elif op is Op.BARRIER:
            if node.arg != "workgroup":
                raise UnsupportedError(
                    f"[render] a barrier of scope {node.arg}; this device has none"
                )
            self.line("threads.barrier()")
        elif op is Op.AFTER:
            names[node] = names[node.src[0]]
        elif op in (Op.CONST, Op.BUFFER):
            names[node] = f"v{len(names)}"
            text = self.constant(node.arg, node.dtype) if op is Op.CONST else self.buffer(node)
            self.entry.append(f"    {names[node]} = {text}")
        elif op not in (Op.GROUP, Op.SINK, Op.INDEX):
            names[node] = f"v{len(names)}"
            self.line(f"{names[node]} = {self.value(node)}")

    def line(self, text: str) -> None:
        self.body.append(self.indent + text)

    def constant(self, value: Scalar, dtype: DType) -> str:
        text = repr(value)
        if isinstance(value, float) and not math.isfinite(value):
            text = f"float('{value}')"
        if dtype.name != "index":
            text = f"cast({text}, '{dtype.scalar.name}')"
        return f"threads.repeat({text}, {dtype.lanes})" if dtype.lanes > 1 else text

    def buffer(self, node: UOp) -> str:
        if node.arg.space is AddressSpace.GLOBAL:
            return f"threads.buffer({self.slots[node]})"
        name, size = node.dtype.scalar.name, node.arg.size * node.dtype.lanes
        method = "shared" if node.arg.space is AddressSpace.LOCAL else "registers"
        return f"threads.{method}('{name}', {node.arg.slot}, {size})"

    def place(self, address: UOp, dtype: DType) -> str:
        """Arguments: the buffer, and the position of each lane in it, in numbers."""
        memory, at = address.src
        text, each = self.names[at], buffer_of(address).dtype.lanes
        if each > 1:
            text = f"{text} * {each}"
        if dtype.lanes > 1 and at.dtype.lanes == 1:
            text = f"threads.lanes({text}, {dtype.lanes})"
        return f"{self.names[memory]}, {text}"

    def value(self, node: UOp) -> str:
        op, dtype = node.op, node.dtype
        src = [self.names.get(s, "") for s in node.src]
        listed = ", ".join(src)
        of = node.src[0].dtype if node.src else dtype
        infix = (BOOL_INFIX if of.kind == "b" else INFIX).get(op)
        if infix is not None:
            return f"{src[0]} {infix} {src[1]}"
        if op in FUNCTIONS:
            return f"{FUNCTIONS[op]}({listed})"
        if op is Op.CAST or op is Op.BITCAST:
            return f"{op.name.lower()}({src[0]}, '{dtype.scalar.name}')"
        if op is Op.VARIABLE:
            return f"variables[{self.variables[node]}]"
        if op is Op.SPECIAL and node.arg in ("group", "local"):
            return f"threads.{node.arg}"
        if op is Op.LOAD:
            address, *gated = node.src
            other = [f"{self.names[gated[1]]}, {self.names[gated[0]]}"] if gated else []
            return f"threads.load({', '.join([self.place(address, dtype), *other])})"
        if op is Op.SHUFFLE and node.arg < min(self.warp, self.kernel.threads):
            return f"threads.shuffle({src[0]}, {node.arg})"
        if op is Op.VECTOR:
            if len(src) == 1 and of.lanes == 1:
                return f"threads.repeat({src[0]}, {dtype.lanes})"
            return f"threads.{'join' if of.lanes == 1 else 'concatenate'}({listed})"
        if op is Op.EXTRACT:
            return f"{src[0]}[{node.arg[0] if len(node.arg) == 1 else list(node.arg)}]"
        raise UnsupportedError(f"[render] {op.name} ({node.arg!r}); this device has none")
