"""LLVM IR text for a linear kernel: the base renderer, and what targets may change of it.

Values are SSA registers, loops count in phi nodes, and REG buffers are allocas that LLVM promotes
to registers: one alloca per element where every index is constant. bool is `i1` as a value and one
byte in memory; `index` is `i64`, or `i32` where a renderer is made so, and its arithmetic never
overflows (`nsw`). Addresses carry their pointer type in their name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.errors import UnsupportedError
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel, buffer_of, known_divisor
from dovetile.render.llvm_words import CONVERSIONS, LlvmWords
from dovetile.render.writer import Writer, kind_of


class LlvmIrRenderer(LlvmWords):
    """Writes linear kernels as LLVM IR. Targets subclass it and change the hooks below."""

    language = "llvm-ir"
    header = ""
    """Text before everything else: data layout and triple where a target needs them."""
    attributes = 'nounwind norecurse "no-builtins"'
    """Of the kernel; without "no-builtins" loops become calls of memcpy and memset."""
    linkage = ""
    """Linkage and calling convention of the kernel."""
    spaces: Mapping[AddressSpace, str] = dict.fromkeys(AddressSpace, "ptr")
    """Pointer types by address space."""
    global_alignment = 1
    """What GLOBAL pointers are known to be multiples of, in bytes."""

    # -- hooks -------------------------------------------------------------------------------------

    def parameters(self, kernel: LinearKernel) -> list[str]:
        """The arguments, named %b0, %b1, ... (buffers) and %var.NAME (variables).

        Distinct buffers do not overlap, except that a kernel in place has one memory twice and
        touches every element through both at the same position only.
        """
        pointer = self.spaces[AddressSpace.GLOBAL]
        pointers = []
        for slot in (b.arg.slot for b in kernel.buffers):
            alone = "" if slot in kernel.changing else " noalias"
            only_read = "" if slot in kernel.written else " readonly"
            pointers.append(f"{pointer}{alone}{only_read} %b{slot}")
        return pointers + [f"i64 %var.{v.arg.name}" for v in kernel.variables]

    def function_attributes(self, kernel: LinearKernel) -> str:
        return self.attributes

    def function_name(self, kernel: LinearKernel) -> str:
        return kernel.name

    def epilogue(self, kernel: LinearKernel) -> str:
        """Text after the kernel's function."""
        return ""

    def special(self, node: UOp, writer: Writer) -> str:
        """The register that holds the hardware index `node.arg`."""
        raise UnsupportedError(f"[render] hardware index {node.arg!r}; this target has none")

    def local_buffer(self, node: UOp, writer: Writer) -> str:
        """The pointer to a LOCAL buffer at byte `node.arg.slot` of the local memory."""
        raise UnsupportedError("[render] a LOCAL buffer; this target has no local memory")

    def barrier(self, node: UOp, writer: Writer) -> None:
        raise UnsupportedError(f"[render] a {node.arg} barrier; this target has none")

    def matmul(self, node: UOp, writer: Writer) -> str:
        """The register that holds what the matrix unit `node.arg` computes of three fragments."""
        raise UnsupportedError(f"[render] matrix unit {node.arg.name}; this target has none")

    def shuffle(self, node: UOp, writer: Writer) -> str:
        """The register that holds the value of the warp's other lane."""
        raise UnsupportedError("[render] a SHUFFLE; this target has no warps")

    # -- the whole kernel --------------------------------------------------------------------------

    def render(self, kernel: LinearKernel) -> str:
        """The module with this one kernel."""
        writer = Writer(kernel)
        names, emit = writer.names, writer.emit
        handlers = self._handlers()
        for node in kernel.uops:
            if len(node.src) == 2:
                first, second = node.src
                instruction = self.instruction(node.op, first.dtype)
                if instruction is not None:
                    names[node] = emit(f"{instruction} {names[first]}, {names[second]}")
                    continue
            names[node] = handlers[node.op](node, writer) or ""
        parameters = ", ".join(self.parameters(kernel))
        return "\n".join(
            [
                *([self.header] if self.header else []),
                f"define {self.linkage} void @{self.function_name(kernel)}({parameters}) #0 {{",
                "entry:",
                *writer.entry,
                *writer.lines,
                # Stores past the caches come in no order; whoever sees the end must see them too.
                *(["  fence seq_cst"] if writer.streams else []),
                "  ret void",
                "}",
                *filter(None, [self.epilogue(kernel)]),
                *writer.declarations,
                f"attributes #0 = {{ {self.function_attributes(kernel)} }}",
                "",
            ]
        )

    def _handlers(self) -> dict[Op, Callable[[UOp, Writer], str | None]]:
        """How each operation that is not one plain instruction is written."""
        call = self._intrinsic
        return {
            Op.CONST: lambda node, writer: self.constant(node.arg, node.dtype),
            Op.BUFFER: self._buffer,
            Op.VARIABLE: lambda node, writer: f"%var.{node.arg.name}",
            Op.SPECIAL: self.special,
            Op.RANGE: self._range,
            Op.END: self._end,
            Op.AFTER: lambda node, writer: writer.names[node.src[0]],
            Op.GROUP: lambda node, writer: None,
            Op.SINK: lambda node, writer: None,
            Op.BARRIER: self.barrier,
            Op.INDEX: self._index,
            Op.LOAD: self._load,
            Op.STORE: self._store,
            Op.CAST: self._cast,
            Op.BITCAST: self._bitcast,
            Op.WHERE: self._where,
            Op.VECTOR: self._vector,
            Op.EXTRACT: self._extract,
            Op.MATMUL: self.matmul,
            Op.SHUFFLE: self.shuffle,
            **{op: call for op, _ in self.intrinsics},
        }

    # -- arithmetic --------------------------------------------------------------------------------

    def _intrinsic(self, node: UOp, writer: Writer) -> str:
        key = (node.op, node.dtype)
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = self._intrinsic_call(node)
        start, text, declaration = call
        writer.declarations[declaration] = None
        names = writer.names
        arguments = ", ".join([f"{text} {names[s]}" for s in node.src])
        return writer.emit(f"{start}({arguments})")

    def _intrinsic_call(self, node: UOp) -> tuple[str, str, str]:
        """(text before the arguments, type of each, declaration) of an elementwise intrinsic."""
        dtype, text = node.dtype, self.type(node.dtype)
        kind = ("bf" if "bfloat" in text else "f") if dtype.kind == "f" else "i"
        vector = f"v{dtype.lanes}" if dtype.lanes > 1 else ""
        intrinsic = self.intrinsics[node.op, kind_of(dtype)]
        name = f"llvm.{intrinsic}.{vector}{kind}{self.bits(dtype)}"
        flags = "nsz " if dtype.kind == "f" and (node.op is Op.MAX or node.op is Op.MIN) else ""
        types = ", ".join([text] * len(node.src))
        return f"call {flags}{text} @{name}", text, f"declare {text} @{name}({types})"

    def _where(self, node: UOp, writer: Writer) -> str:
        condition, then, otherwise = node.src
        names, text = writer.names, self.type(node.dtype)
        return writer.emit(
            f"select {self.type(condition.dtype)} {names[condition]}, "
            f"{text} {names[then]}, {text} {names[otherwise]}"
        )

    def _cast(self, node: UOp, writer: Writer) -> str:
        source, target = node.src[0].dtype, node.dtype
        value = writer.names[node.src[0]]
        before, after = self.type(source), self.type(target)
        if target.kind == "b":
            if source.kind == "b":
                return value
            return self._nonzero(value, source, writer)
        unsigned = source.kind in "bu"
        if source.kind == "f" and target.kind == "f":
            how = "fpext" if target.itemsize > source.itemsize else "fptrunc"
        elif source.kind == "f" or target.kind == "f":
            how = CONVERSIONS["u" if unsigned else source.kind, target.kind]
        elif before == after:
            return value
        elif source.kind == "b" or self.bits(target) > self.bits(source):
            how = "zext" if unsigned else "sext"
        else:
            how = "trunc"
        return writer.emit(f"{how} {before} {value} to {after}")

    def _nonzero(self, value: str, dtype: DType, writer: Writer) -> str:
        compare = "fcmp une" if dtype.kind == "f" else "icmp ne"
        return writer.emit(f"{compare} {self.type(dtype)} {value}, zeroinitializer")

    def _bitcast(self, node: UOp, writer: Writer) -> str:
        source, target = node.src[0].dtype, node.dtype
        value = writer.names[node.src[0]]
        before, after = self.type(source), self.type(target)
        if before == after:
            return value
        if target.kind == "b":
            return self._nonzero(value, source, writer)
        how = "zext" if source.kind == "b" else "bitcast"
        return writer.emit(f"{how} {before} {value} to {after}")

    # -- vectors -----------------------------------------------------------------------------------

    def _vector(self, node: UOp, writer: Writer) -> str:
        names, lanes = writer.names, node.dtype.lanes
        scalar, vector = self.type(node.dtype.scalar), self.type(node.dtype)
        if all(s.op is Op.CONST for s in node.src):
            if len(node.src) == 1:
                return self.constant(node.src[0].arg, node.dtype)
            return f"<{', '.join(f'{scalar} {names[s]}' for s in node.src)}>"
        if len(node.src) == 1:
            value = names[node.src[0]]
            if lanes == 1:
                return value
            return self._repeat(value, node.dtype, writer)
        if node.src[0].dtype.lanes > 1:
            return self._joined([names[s] for s in node.src], node.src[0].dtype, writer)
        value = "poison"
        for i, s in enumerate(node.src):
            value = writer.emit(f"insertelement {vector} {value}, {scalar} {names[s]}, i64 {i}")
        return value

    def _joined(self, parts: list[str], dtype: DType, writer: Writer) -> str:
        """The vector of the lanes of all parts, which are a power of two of vectors of `dtype`."""
        while len(parts) > 1:
            text, lanes = self.type(dtype), 2 * dtype.lanes
            order = ", ".join(f"i32 {lane}" for lane in range(lanes))
            parts = [
                writer.emit(f"shufflevector {text} {a}, {text} {b}, <{lanes} x i32> <{order}>")
                for a, b in zip(parts[::2], parts[1::2])
            ]
            dtype = dtype.vec(lanes)
        return parts[0]

    def _repeat(self, value: str, dtype: DType, writer: Writer) -> str:
        """The vector with the scalar `value` in every lane."""
        vector, scalar = self.type(dtype), self.type(dtype.scalar)
        one = writer.emit(f"insertelement {vector} poison, {scalar} {value}, i64 0")
        zeros = f"<{dtype.lanes} x i32> zeroinitializer"
        return writer.emit(f"shufflevector {vector} {one}, {vector} poison, {zeros}")

    def _extract(self, node: UOp, writer: Writer) -> str:
        source = node.src[0]
        value, vector = writer.names[source], self.type(source.dtype)
        if len(node.arg) == 1:
            return writer.emit(f"extractelement {vector} {value}, i64 {node.arg[0]}")
        lanes = ", ".join(f"i32 {lane}" for lane in node.arg)
        if source in writer.bytes:  # bytes are far cheaper to shuffle than single bits
            text, value = self.stored(source.dtype), writer.bytes[source]
            picked = writer.emit(
                f"shufflevector {text} {value}, {text} poison, <{len(node.arg)} x i32> <{lanes}>"
            )
            return self._from_memory(picked, node.dtype, writer)
        return writer.emit(
            f"shufflevector {vector} {value}, {vector} poison, <{len(node.arg)} x i32> <{lanes}>"
        )

    # -- memory ------------------------------------------------------------------------------------

    def _buffer(self, node: UOp, writer: Writer) -> str:
        slot, size, space, _ = node.arg
        if space is AddressSpace.GLOBAL:
            return f"{self.spaces[space]} %b{slot}"
        if space is AddressSpace.LOCAL:
            return f"{self.spaces[space]} {self.local_buffer(node, writer)}"
        if node in writer.arrays:
            text = self.stored(node.dtype)
            writer.entry.append(f"  %r{slot} = alloca [{size} x {text}], align 64")
        return f"{self.spaces[space]} %r{slot}"

    def _index(self, node: UOp, writer: Writer) -> str:
        position = node.src[1]
        buffer = buffer_of(node)
        text = self.stored(buffer.dtype)
        if buffer.arg.space is AddressSpace.REG and buffer not in writer.arrays:
            pointer = f"{writer.names[buffer]}.{position.arg}"
            if pointer not in writer.declared:
                writer.declared.add(pointer)
                writer.entry.append(f"  {pointer.split()[-1]} = alloca {text}")
            return pointer
        bounds = "" if node in writer.gated else " inbounds"
        base = writer.names[node.src[0]]
        address = writer.emit(
            f"getelementptr{bounds} {text}, {base}, "
            f"{self.type(position.dtype)} {writer.names[position]}"
        )
        space, lanes = self.spaces[buffer.arg.space], position.dtype.lanes
        return f"{space} {address}" if lanes == 1 else f"<{lanes} x {space}> {address}"

    def _alignment(self, address: UOp, dtype: DType, writer: Writer) -> int:
        """Bytes of which the address of a value of `dtype` is known to be a multiple."""
        buffer = buffer_of(address)
        element = buffer.dtype.itemsize * buffer.dtype.lanes
        base = self.global_alignment if buffer.arg.space is AddressSpace.GLOBAL else 64
        if base <= dtype.itemsize or dtype.lanes == 1:
            return dtype.itemsize
        offset = known_divisor(address.src[1], writer.divisors) * (element & -element)
        start = buffer.arg.slot if buffer.arg.space is AddressSpace.LOCAL else 0
        base = min(base, start & -start) if start else base
        return max(dtype.itemsize, min(base, offset))

    def _load(self, node: UOp, writer: Writer) -> str:
        address, dtype = node.src[0], node.dtype
        gate = node.src[2] if len(node.src) == 3 else None
        if address.src[1].dtype.lanes > 1 or (gate is not None and gate.dtype.lanes > 1):
            return self._from_memory(self._masked_load(node, writer), dtype, writer)
        text = self.stored(dtype)
        load = f"load {text}, {writer.names[address]}"
        if dtype.lanes > 1:
            load += f", align {self._alignment(address, dtype, writer)}"
        if gate is None:
            value = writer.emit(load)
            if dtype.kind == "b" and dtype.lanes > 1:
                writer.bytes[node] = value
            return self._from_memory(value, dtype, writer)
        before = writer.block
        after = self._branch(gate, writer)
        value = self._from_memory(writer.emit(load), dtype, writer)
        inside = writer.block
        self._join(after, writer)
        alternative = writer.names[node.src[1]]
        return writer.emit(
            f"phi {self.type(dtype)} [ {alternative}, %{before} ], [ {value}, %{inside} ]"
        )

    def _store(self, node: UOp, writer: Writer) -> None:
        address, value = node.src[:2]
        gate = node.src[2] if len(node.src) == 3 else None
        dtype = value.dtype
        name = self._to_memory(writer.names[value], dtype, writer)
        masked = gate is not None and gate.dtype.lanes > 1
        if address.src[1].dtype.lanes > 1 or masked:
            return self._masked_store(node, name, writer)
        store = f"  store {self.stored(dtype)} {name}, {writer.names[address]}"
        after = self._branch(gate, writer) if gate is not None else None
        if dtype.lanes == 1:
            writer.lines.append(store)
        elif node.arg == "streaming":
            self._streaming_store(store, address, dtype, writer)
        else:
            writer.lines.append(f"{store}, align {self._alignment(address, dtype, writer)}")
        if after is not None:
            self._join(after, writer)

    def _streaming_store(self, store: str, address: UOp, dtype: DType, writer: Writer) -> None:
        """A store past the caches where the address allows it, which is tested as it happens: a
        buffer may begin anywhere. The branch costs nothing beside the memory's time."""
        writer.streams = True
        nbytes = dtype.lanes * dtype.itemsize
        place = writer.emit(f"ptrtoint {writer.names[address]} to i64")
        rest = writer.emit(f"and i64 {place}, {nbytes - 1}")
        aligned = writer.emit(f"icmp eq i64 {rest}, 0")
        number = writer.counter
        do, otherwise, after = f"do{number}", f"else{number}", f"after{number}"
        writer.lines.append(f"  br i1 {aligned}, label %{do}, label %{otherwise}")
        writer.begin(do)
        writer.lines.append(f"{store}, align {nbytes}, !nontemporal !{{i32 1}}")
        writer.lines.append(f"  br label %{after}")
        writer.begin(otherwise)
        writer.lines.append(f"{store}, align {dtype.itemsize}")
        self._join(after, writer)

    def _from_memory(self, value: str, dtype: DType, writer: Writer) -> str:
        if dtype.kind != "b":
            return value
        return writer.emit(f"icmp ne {self.stored(dtype)} {value}, zeroinitializer")

    def _to_memory(self, value: str, dtype: DType, writer: Writer) -> str:
        if dtype.kind != "b":
            return value
        return writer.emit(f"zext {self.type(dtype)} {value} to {self.stored(dtype)}")

    def _branch(self, gate: UOp, writer: Writer) -> str:
        """Begins what happens only where the scalar `gate` is true; returns the block after it."""
        writer.counter += 1
        do, after = f"do{writer.counter}", f"after{writer.counter}"
        writer.lines.append(f"  br i1 {writer.names[gate]}, label %{do}, label %{after}")
        writer.begin(do)
        return after

    def _join(self, after: str, writer: Writer) -> None:
        writer.lines.append(f"  br label %{after}")
        writer.begin(after)

    def _masked(
        self, operation: str, node: UOp, dtype: DType, writer: Writer
    ) -> tuple[str, str, str]:
        """(name of the intrinsic, its type of addresses, the mask) of a masked access.

        A vector of addresses without a mask has one that is true; a scalar gate is repeated.
        """
        address = node.src[0]
        pointers = writer.names[address].rsplit(" ", 1)[0]
        number = re.sub(r"\D", "", self.spaces[buffer_of(address).arg.space]) or "0"
        lanes = dtype.lanes
        element = self.types[dtype.name]
        kind = {"half": "f", "bfloat": "bf", "float": "f", "double": "f"}.get(element, "i")
        name = f"llvm.masked.{operation}.v{lanes}{kind}{dtype.bits}"
        several = f"v{lanes}" if operation in ("gather", "scatter") else ""
        flags = f"<{lanes} x i1>"
        gate = node.src[2] if len(node.src) == 3 else None
        if gate is None:
            mask = "splat (i1 true)"
        elif gate.dtype.lanes == 1:
            mask = self._repeat(writer.names[gate], dtypes.bool_.vec(lanes), writer)
        else:
            mask = writer.names[gate]
        return f"{name}.{several}p{number}", pointers, f"{flags} {mask}"

    def _masked_load(self, node: UOp, writer: Writer) -> str:
        dtype, text = node.dtype, self.stored(node.dtype)
        operation = "gather" if node.src[0].src[1].dtype.lanes > 1 else "load"
        name, pointers, mask = self._masked(operation, node, dtype, writer)
        other = "poison"
        if len(node.src) == 3:
            other = self._to_memory(writer.names[node.src[1]], dtype, writer)
        flags = f"<{dtype.lanes} x i1>"
        function = writer.intrinsic(name, text, pointers, "i32", flags, text)
        address = writer.names[node.src[0]]
        return writer.emit(
            f"call {text} {function}({address}, i32 {dtype.itemsize}, {mask}, {text} {other})"
        )

    def _masked_store(self, node: UOp, value: str, writer: Writer) -> None:
        dtype = node.src[1].dtype
        text, flags = self.stored(dtype), f"<{dtype.lanes} x i1>"
        operation = "scatter" if node.src[0].src[1].dtype.lanes > 1 else "store"
        name, pointers, mask = self._masked(operation, node, dtype, writer)
        function = writer.intrinsic(name, "void", text, pointers, "i32", flags)
        address = writer.names[node.src[0]]
        writer.lines.append(
            f"  call void {function}({text} {value}, {address}, i32 {dtype.itemsize}, {mask})"
        )

    # -- loops -------------------------------------------------------------------------------------

    def _range(self, node: UOp, writer: Writer) -> str:
        writer.counter += 1
        loop, size = f"loop{writer.counter}", node.src[0]
        counter = f"%i{writer.counter}"
        if size.minimum < 1:  # the loop may be empty, but its test stands at its end
            enter = writer.emit(f"icmp sgt {self.types['index']} {writer.names[size]}, 0")
            writer.lines.append(f"  br i1 {enter}, label %{loop}, label %{loop}.done")
        else:
            writer.lines.append(f"  br label %{loop}")
        before = writer.block
        writer.begin(loop)
        writer.loops[node] = (len(writer.lines), before)
        writer.lines.append("")  # the phi, written when the block that ends the loop is known
        return counter

    def _end(self, node: UOp, writer: Writer) -> None:
        loop_range = node.src[1]
        position, before = writer.loops[loop_range]
        counter = writer.names[loop_range]
        loop = f"loop{counter[2:]}"
        size, index = writer.names[loop_range.src[0]], self.types["index"]
        writer.lines[position] = (
            f"  {counter} = phi {index} [ 0, %{before} ], [ {counter}.next, %{writer.block} ]"
        )
        writer.lines += [
            f"  {counter}.next = add nuw nsw {index} {counter}, 1",
            f"  {counter}.more = icmp slt {index} {counter}.next, {size}",
            f"  br i1 {counter}.more, label %{loop}, label %{loop}.done",
        ]
        writer.begin(f"{loop}.done")
