"""LLVM IR for `PtxCompiler`: the core's renderer with the address spaces and intrinsics of NVPTX.

See LLVM's "User Guide for NVPTX Back-end".
"""

from __future__ import annotations

from collections.abc import Callable

from dovetile.dtypes import DType
from dovetile.errors import UnsupportedError
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.uop import UOp
from dovetile.lower.early import await_launches
from dovetile.lower.linear import LinearKernel
from dovetile.plugins import Capabilities
from dovetile.render import LlvmIrRenderer, Writer, in_lanes, indices_fit
from dovetile_nv import boxes, matrix_units, warpgroup
from dovetile_nv.capabilities import ACCESS_BYTES
from dovetile_nv.program_form import (
    GLOBAL_ALIGNMENT,
    LOCAL_ALIGNMENT,
    REGISTERS,
    is_dynamic,
    size_name,
)


class PtxRenderer:
    """Writes linear kernels as LLVM IR for NVPTX."""

    language = "llvm-ir"

    def __init__(self, capabilities: Capabilities) -> None:
        self._narrow = _Text(capabilities, 32)
        self._wide = _Text(capabilities, 64)

    def render(self, kernel: LinearKernel) -> str:
        """The module with this one kernel. Indices have 32 bits where that is enough: arithmetic
        on 64 takes several instructions each."""
        if any(node.op in (Op.COMMIT, Op.MATMUL) for node in kernel.uops):
            # Assembly takes single lanes, and copies ahead have one condition for all of theirs.
            kernel = in_lanes(kernel, ACCESS_BYTES, GLOBAL_ALIGNMENT)
        if self._narrow.capabilities.early_launches:
            kernel = await_launches(kernel, 0)
        return (self._narrow if indices_fit(kernel, 32) else self._wide).render(kernel)


class _Text(LlvmIrRenderer):
    linkage = "ptx_kernel"
    spaces = {
        AddressSpace.GLOBAL: "ptr addrspace(1)",
        AddressSpace.LOCAL: "ptr addrspace(3)",
        AddressSpace.REG: "ptr",
    }
    global_alignment = GLOBAL_ALIGNMENT

    def function_attributes(self, kernel: LinearKernel) -> str:
        return f'{self.attributes} "nvvm.maxntid"="{kernel.threads}"'

    def parameters(self, kernel: LinearKernel) -> list[str]:
        buffers = super().parameters(kernel)[: len(kernel.buffers)]
        values = [f"i64 %value.{v.arg.name}" for v in kernel.variables]
        form = f'byval([{boxes.MAP_BYTES} x i8]) align 64 "nvvm.grid_constant"'
        maps = [f"ptr {form} %map.{i}" for i in range(len(boxes.tensor_maps(kernel)))]
        return buffers + values + maps

    def epilogue(self, kernel: LinearKernel) -> str:
        lines = []
        if is_dynamic(kernel):
            size = kernel.local_bytes
            lines.append(f"@{size_name(kernel)} = addrspace(1) global i32 {size}")
        maps = boxes.tensor_maps(kernel)
        if maps:
            words = boxes.data_words(maps.values())
            name, text = boxes.data_name(kernel.name), ", ".join(f"i64 {word}" for word in words)
            lines.append(f"@{name} = addrspace(1) global [{len(words)} x i64] [{text}]")
        return "\n".join(lines)

    def _handlers(self) -> dict[Op, Callable[[UOp, Writer], str | None]]:
        return {
            **super()._handlers(),
            Op.VARIABLE: self._variable,
            Op.COMMIT: self._commit,
            Op.WAIT: self._wait,
            Op.FETCH: self._fetch,
        }

    def _variable(self, node: UOp, writer: Writer) -> str:
        name = node.arg.name
        if self.index_bits == 64:
            return f"%value.{name}"
        writer.entry.append(f"  %var.{name} = trunc i64 %value.{name} to i{self.index_bits}")
        return f"%var.{name}"

    def special(self, node: UOp, writer: Writer) -> str:
        if node.arg not in REGISTERS:
            return super().special(node, writer)
        function = writer.intrinsic(f"llvm.nvvm.read.ptx.sreg.{REGISTERS[node.arg]}.x", "i32")
        size = int(node.src[0].maximum)
        value = writer.emit(f"call range(i32 0, {max(size, 1)}) i32 {function}()")
        return value if self.index_bits == 32 else writer.emit(f"zext i32 {value} to i64")

    def local_buffer(self, node: UOp, writer: Writer) -> str:
        size = writer.kernel.local_bytes
        memory = f"internal addrspace(3) global [{size} x i8] undef"
        if is_dynamic(writer.kernel):
            memory = "external addrspace(3) global [0 x i8]"
        writer.declarations[f"@local_memory = {memory}, align {LOCAL_ALIGNMENT}"] = None
        name = f"%local.{node.arg.slot}.{len(writer.entry)}"
        writer.entry.append(
            f"  {name} = getelementptr inbounds i8, ptr addrspace(3) @local_memory, "
            f"i32 {node.arg.slot}"
        )
        return name

    def barrier(self, node: UOp, writer: Writer) -> None:
        if node.arg == "launch":
            for name in ("launch.dependents", "wait"):
                function = writer.intrinsic(f"llvm.nvvm.griddepcontrol.{name}", "void")
                writer.lines.append(f"  call void {function}()")
            return None
        if node.arg != "workgroup":
            return super().barrier(node, writer)
        if any(matrix_units.goes_on(p.arg) for p in matrix_units.products(writer.kernel)):
            _statement("fence.proxy.async.shared::cta;", writer)
        self._do("llvm.nvvm.barrier0", writer)

    def _do(self, name: str, writer: Writer, *arguments: str) -> None:
        """Calls an intrinsic that has no result."""
        function = writer.intrinsic(name, "void", *(a.rsplit(" ", 1)[0] for a in arguments))
        writer.lines.append(f"  call void {function}({', '.join(arguments)})")

    # -- the matrix unit, and copies ahead ---------------------------------------------------------

    def matmul(self, node: UOp, writer: Writer) -> str:
        """Products of one sum follow each other: begun together, and awaited together."""
        unit, total = node.arg, node.src[2]
        goes_on = matrix_units.goes_on(unit)
        if goes_on and total.op is not Op.MATMUL:
            _statement("wgmma.fence.sync.aligned;", writer)
        vector, scalar, lanes = (
            self.type(node.dtype),
            self.type(node.dtype.scalar),
            node.dtype.lanes,
        )
        held = [
            writer.emit(f"extractelement {vector} {writer.names[total]}, i64 {lane}")
            for lane in range(lanes)
        ]
        forms = warpgroup.panel_forms(unit) if goes_on else (None, None)
        panels = [
            self._panel(writer.names[address], form, writer)
            for address, form in zip(node.src, forms)
        ]
        text = matrix_units.assembly(unit, "$", "%", 2 * lanes)
        kind, place = "r" if scalar == "i32" else "f", "l" if goes_on else "r"
        constraints = [*[f"={kind}"] * lanes, *map(str, range(lanes)), place, place]
        results = f"{{ {', '.join([scalar] * lanes)} }}"
        arguments = [*(f"{scalar} {value}" for value in held), *panels]
        result = writer.emit(
            f'call {results} asm sideeffect "{text}", "{",".join(constraints)},~{{memory}}"'
            f"({', '.join(arguments)})"
        )
        value = "poison"
        for lane in range(lanes):
            one = writer.emit(f"extractvalue {results} {result}, {lane}")
            value = writer.emit(f"insertelement {vector} {value}, {scalar} {one}, i64 {lane}")
        last = all(node is not other.src[2] for other in matrix_units.products(writer.kernel))
        if last and goes_on:
            _statement("wgmma.commit_group.sync.aligned;", writer)
            # In a loop, those of one step go on during the next, and are awaited behind the loop.
            _statement(warpgroup.awaited(1 if node.ranges else 0), writer)
        return value

    def _panel(self, pointer: str, form: int | None, writer: Writer) -> str:
        """Where an operand lies: its address, or the descriptor of this form."""
        place = writer.emit(f"ptrtoint {pointer} to i32")
        if form is None:
            return f"i32 {place}"
        place = writer.emit(f"and i32 {place}, {0x3FFFF}")
        place = writer.emit(f"lshr i32 {place}, 4")
        place = writer.emit(f"zext i32 {place} to i64")
        return f"i64 {writer.emit(f'or disjoint i64 {place}, {form}')}"

    def _end(self, node: UOp, writer: Writer) -> None:
        super()._end(node, writer)
        if matrix_units.ends_products(node, writer.kernel):
            _statement(warpgroup.awaited(0), writer)

    def _commit(self, node: UOp, writer: Writer) -> None:
        self._do("llvm.nvvm.cp.async.commit.group", writer)

    def _wait(self, node: UOp, writer: Writer) -> None:
        if node.arg is None:
            place, number = (writer.names[s] for s in node.src[:2])
            index = self.types["index"]
            odd = writer.emit(f"trunc {index} {number} to i1")
            odd = writer.emit(f"zext i1 {odd} to i32")
            return _statement(boxes.AWAIT, writer, self._address(place, writer), f"i32 {odd}")
        self._do("llvm.nvvm.cp.async.wait.group", writer, f"i32 {node.arg}")

    def _fetch(self, node: UOp, writer: Writer) -> None:
        number = list(boxes.tensor_maps(writer.kernel)).index((node.src[3], node.arg))
        to, arrivals = (self._address(writer.names[s], writer) for s in node.src[:2])
        index = self.types["index"]
        starts = [f"{index} {writer.names[s]}" for s in node.src[4:]]
        if index != "i32":
            starts = [f"i32 {writer.emit(f'trunc {start} to i32')}" for start in starts]
        after = self._branch(node.src[2], writer)
        _statement(boxes.EXPECT, writer, arrivals, f"i32 {boxes.box_bytes(node)}")
        _statement(
            boxes.fetch_text(len(starts)), writer, to, f"ptr %map.{number}", arrivals, *starts
        )
        self._join(after, writer)

    def _address(self, pointer: str, writer: Writer) -> str:
        """An address of shared memory as assembly takes it."""
        return f"i32 {writer.emit(f'ptrtoint {pointer} to i32')}"

    def _store(self, node: UOp, writer: Writer) -> None:
        if node.arg == "arrivals":
            after = self._branch(node.src[2], writer) if len(node.src) == 3 else None
            place = self._address(writer.names[node.src[0]], writer)
            count = writer.emit(f"trunc i64 {writer.names[node.src[1]]} to i32")
            _statement(boxes.BEGIN, writer, place, f"i32 {count}")
            return self._join(after, writer) if after is not None else None
        if node.arg != "async":
            return super()._store(node, writer)
        to, load = node.src
        nbytes = load.dtype.itemsize * load.dtype.lanes
        if load.op is not Op.LOAD or nbytes not in (4, 8, 16):
            raise UnsupportedError(
                f"[render] an asynchronous store of {nbytes} bytes from {load.op.name}"
            )
        name = f"llvm.nvvm.cp.async.{'cg' if nbytes == 16 else 'ca'}.shared.global.{nbytes}"
        arguments = [writer.names[to], writer.names[load.src[0]]]
        if len(load.src) == 3:
            really = f"select i1 {writer.names[load.src[2]]}, i32 {nbytes}, i32 0"
            name, arguments = f"{name}.s", [*arguments, f"i32 {writer.emit(really)}"]
        self._do(name, writer, *arguments)

    def shuffle(self, node: UOp, writer: Writer) -> str:
        dtype, value = node.dtype, writer.names[node.src[0]]
        if dtype.lanes == 1:
            return self._shuffled(value, dtype, node.arg, writer)
        vector, scalar = self.type(dtype), self.type(dtype.scalar)
        result = "poison"
        for lane in range(dtype.lanes):
            one = writer.emit(f"extractelement {vector} {value}, i64 {lane}")
            one = self._shuffled(one, dtype.scalar, node.arg, writer)
            result = writer.emit(f"insertelement {vector} {result}, {scalar} {one}, i64 {lane}")
        return result

    def _shuffled(self, value: str, dtype: DType, distance: int, writer: Writer) -> str:
        """A scalar of the other lane: whole registers of 32 bits change hands."""
        text, bits = self.type(dtype), 1 if dtype.kind == "b" else self.bits(dtype)
        function = writer.intrinsic("llvm.nvvm.shfl.sync.bfly.i32", "i32", *["i32"] * 4)

        def other(word: str) -> str:
            return writer.emit(f"call i32 {function}(i32 -1, i32 {word}, i32 {distance}, i32 31)")

        word = writer.emit(f"bitcast {text} {value} to i{bits}")
        if bits <= 32:
            if bits < 32:
                word = writer.emit(f"zext i{bits} {word} to i32")
            word = other(word)
            if bits < 32:
                word = writer.emit(f"trunc i32 {word} to i{bits}")
        else:
            low = other(writer.emit(f"trunc i64 {word} to i32"))
            high = writer.emit(f"lshr i64 {word}, 32")
            high = other(writer.emit(f"trunc i64 {high} to i32"))
            high = writer.emit(f"zext i32 {high} to i64")
            high = writer.emit(f"shl i64 {high}, 32")
            low = writer.emit(f"zext i32 {low} to i64")
            word = writer.emit(f"or disjoint i64 {high}, {low}")
        return writer.emit(f"bitcast i{bits} {word} to {text}")


def _statement(text: str, writer: Writer, *operands: str) -> None:
    """Assembly that has no result; its operands, %0, %1, ..., each with its type."""
    kinds = ["r" if operand.startswith("i32 ") else "l" for operand in operands]
    constraints = ",".join([*kinds, "~{memory}"])
    text = text.replace("%", "$")
    writer.lines.append(
        f'  call void asm sideeffect "{text}", "{constraints}"({", ".join(operands)})'
    )
