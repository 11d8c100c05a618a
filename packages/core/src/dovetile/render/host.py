"""Kernels that a host process calls: both base renderers with the signature of such functions.

    int32 NAME(void** buffers, int64* scalars, int64 part, void* scratch)

buffers: pointers of the GLOBAL buffers in order of their slots. scalars: values of the variables in
order of their names. part: which part of the THREAD axis this call runs. scratch: LOCAL memory of
the calling worker, aligned to 64 bytes. The result is 0; other values are reserved for faults.
"""

from __future__ import annotations

from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel
from dovetile.render.c_style import CStyleRenderer
from dovetile.render.llvm_ir import LlvmIrRenderer
from dovetile.render.writer import Writer


class HostLlvmIrRenderer(LlvmIrRenderer):
    """LLVM IR with the host signature.

    The kernel itself takes its pointers as `noalias` arguments, which is the cheapest way to tell
    that buffers do not overlap; the function of the host signature unpacks them and calls it.
    """

    linkage = "internal"
    attributes = 'noinline nounwind norecurse "no-builtins"'

    def function_name(self, kernel: LinearKernel) -> str:
        return f"{kernel.name}.body"

    def parameters(self, kernel: LinearKernel) -> list[str]:
        return [*super().parameters(kernel), "i64 %part", "ptr noalias align 64 %scratch"]

    def special(self, node: UOp, writer: Writer) -> str:
        return "%part" if node.arg == "part" else super().special(node, writer)

    def local_buffer(self, node: UOp, writer: Writer) -> str:
        name = f"%local.{node.arg.slot}.{len(writer.entry)}"
        writer.entry.append(
            f"  {name} = getelementptr inbounds i8, ptr %scratch, i64 {node.arg.slot}"
        )
        return name

    def epilogue(self, kernel: LinearKernel) -> str:
        lines: list[str] = []
        arguments: list[str] = []
        for i, buffer in enumerate(kernel.buffers):
            lines.append(f"  %p{i} = getelementptr inbounds ptr, ptr %buffers, i64 {i}")
            lines.append(f"  %b{buffer.arg.slot} = load ptr, ptr %p{i}")
            arguments.append(f"ptr %b{buffer.arg.slot}")
        for i, variable in enumerate(kernel.variables):
            name = f"%var.{variable.arg.name}"
            lines.append(f"  %s{i} = getelementptr inbounds i64, ptr %scalars, i64 {i}")
            lines.append(f"  {name} = load i64, ptr %s{i}")
            arguments.append(f"i64 {name}")
        arguments += ["i64 %part", "ptr %scratch"]
        return "\n".join(
            [
                f"define i32 @{kernel.name}"
                + "(ptr %buffers, ptr %scalars, i64 %part, ptr %scratch) nounwind {",
                *lines,
                f"  tail call void @{self.function_name(kernel)}({', '.join(arguments)})",
                "  ret i32 0",
                "}",
            ]
        )


class HostCStyleRenderer(CStyleRenderer):
    """C with the host signature; as above, `restrict` arguments tell that buffers do not overlap.

    Compile it with -fno-math-errno -fno-builtin, which keep calls of the C library out of the
    code; -fwrapv is not needed.
    """

    qualifier = "static __attribute__((noinline)) void"

    def function_name(self, kernel: LinearKernel) -> str:
        return f"{kernel.name}_body"

    def parameters(self, kernel: LinearKernel) -> list[str]:
        index = self.types["index"]
        return [*super().parameters(kernel), f"{index} part", "unsigned char* restrict scratch"]

    def special(self, node: UOp, writer: Writer) -> str:
        return "part" if node.arg == "part" else super().special(node, writer)

    def local_buffer(self, node: UOp, writer: Writer) -> str:
        name, text = f"local_{node.arg.slot}_{len(writer.entry)}", self.stored(node.dtype)
        writer.entry.append(f"{text}* {name} = ({text}*)(scratch + {node.arg.slot});")
        return name

    def epilogue(self, kernel: LinearKernel) -> str:
        index = self.types["index"]
        arguments = [f"buffers[{i}]" for i in range(len(kernel.buffers))]
        arguments += [f"scalars[{i}]" for i in range(len(kernel.variables))]
        call = ", ".join([*arguments, "part", "scratch"])
        return (
            f"int {kernel.name}(void** buffers, {index}* scalars, {index} part, void* scratch) {{\n"
            f"{self.function_name(kernel)}({call});\nreturn 0;\n}}"
        )
