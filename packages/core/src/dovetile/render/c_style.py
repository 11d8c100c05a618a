"""C-style text for a linear kernel: the base renderer, and what targets may change of it.

Every value is a constant variable. Vectors are the vector extensions of common C compilers. A
vector of bool is a vector of signed bytes, 0 or -1, so that masks combine with & | ^; a scalar
bool is `_Bool`; both are one byte, 0 or 1, in memory. Signed arithmetic wraps: it is done unsigned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.errors import UnsupportedError
from dovetile.ir.ops import COMPARISON, AddressSpace, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel, buffer_of
from dovetile.plugins.specs import Capabilities
from dovetile.render.writer import Writer, bits_only, kind_of

OPERATORS: dict[Op, dict[str, str]] = {
    Op.ADD: {"b": "|", "u": "+", "i": "+", "f": "+", "x": "+"},
    Op.SUB: {"b": "^", "u": "-", "i": "-", "f": "-", "x": "-"},
    Op.MUL: {"b": "&", "u": "*", "i": "*", "f": "*", "x": "*"},
    Op.DIV: {"f": "/"},
    Op.FLOORDIV: {"u": "/", "i": "/", "x": "/"},
    Op.FLOORMOD: {"u": "%", "i": "%", "x": "%"},
    Op.LT: {"b": "<", "u": "<", "i": "<", "f": "<", "x": "<"},
    Op.NE: {"b": "!=", "u": "!=", "i": "!=", "f": "!=", "x": "!="},
    Op.AND: {"b": "&", "u": "&", "i": "&", "x": "&"},
    Op.OR: {"b": "|", "u": "|", "i": "|", "x": "|"},
    Op.XOR: {"b": "^", "u": "^", "i": "^", "x": "^"},
    Op.SHL: {"u": "<<", "i": "<<", "x": "<<"},
    Op.SHR: {"u": ">>", "i": ">>", "x": ">>"},
    Op.MAX: {"b": "|"},
    Op.MIN: {"b": "&"},
}  # fmt: skip
WRAPPING = frozenset({Op.ADD, Op.SUB, Op.MUL, Op.SHL, Op.FLOORDIV, Op.FLOORMOD})
FUNCTIONS: dict[Op, dict[str, str]] = {
    Op.SQRT: {"float16": "(_Float16)__builtin_sqrtf", "float32": "__builtin_sqrtf",
              "float64": "__builtin_sqrt"},
    Op.TRUNC: {"float16": "(_Float16)__builtin_truncf", "float32": "__builtin_truncf",
               "float64": "__builtin_trunc"},
}  # fmt: skip
TYPES = {
    "bool": "_Bool", "int8": "signed char", "uint8": "unsigned char", "int16": "short",
    "uint16": "unsigned short", "int32": "int", "uint32": "unsigned", "int64": "long long",
    "uint64": "unsigned long long", "index": "long long", "float16": "_Float16",
    "bfloat16": "__bf16", "float32": "float", "float64": "double",
}  # fmt: skip

# Compilers without the builtin store plainly.
_NONTEMPORAL = """#if !__has_builtin(__builtin_nontemporal_store)
#define __builtin_nontemporal_store(value, place) (*(place) = (value))
#endif"""


class CStyleRenderer:
    """Writes linear kernels in C and its relatives. Targets subclass it and change the hooks."""

    language = "c"
    operators: Mapping[Op, Mapping[str, str]] = OPERATORS
    functions: Mapping[Op, Mapping[str, str]] = FUNCTIONS
    """Native functions by operation and type; called lane by lane for vectors."""
    types: Mapping[str, str] = TYPES
    header = "#pragma STDC FP_CONTRACT ON"
    """Text before everything else. A MULACC of vectors is `a * b + c`, contracted."""
    qualifier = "void"
    """What stands before the kernel's name."""
    restrict = "restrict"
    not_a_number, infinity = '__builtin_nanf("")', "__builtin_inff()"
    spaces: Mapping[AddressSpace, str] = dict.fromkeys(AddressSpace, "")
    """Address space qualifiers of pointers, with a space behind."""

    def __init__(self, capabilities: Capabilities, index_bits: int = 64) -> None:
        self.capabilities = capabilities
        self.bits_only = bits_only(capabilities)
        small = {name: self.types[f"uint{getattr(dtypes, name).bits}"] for name in self.bits_only}
        self.index_bits = index_bits
        self.types = {**self.types, **small, "index": self.types[f"int{index_bits}"]}

    # -- hooks -------------------------------------------------------------------------------------

    def parameters(self, kernel: LinearKernel) -> list[str]:
        """The arguments, named b0, b1, ... (buffers) and var_NAME (variables)."""
        result = []
        for buffer in kernel.buffers:
            slot = buffer.arg.slot
            const = "" if slot in kernel.written else "const "
            space = self.spaces[AddressSpace.GLOBAL]
            restrict = "" if slot in kernel.changing else self.restrict
            result.append(f"{const}{space}{self.stored(buffer.dtype)}* {restrict} b{slot}")
        index = self.types["index"]
        return result + [f"{index} var_{v.arg.name}" for v in kernel.variables]

    def qualifiers(self, kernel: LinearKernel) -> str:
        return self.qualifier

    def function_name(self, kernel: LinearKernel) -> str:
        return kernel.name

    def epilogue(self, kernel: LinearKernel) -> str:
        """Text after the kernel's function."""
        return ""

    def special(self, node: UOp, writer: Writer) -> str:
        """The expression for the hardware index `node.arg`."""
        raise UnsupportedError(f"[render] hardware index {node.arg!r}; this target has none")

    def local_buffer(self, node: UOp, writer: Writer) -> str:
        """The pointer to a LOCAL buffer at byte `node.arg.slot` of the local memory."""
        raise UnsupportedError("[render] a LOCAL buffer; this target has no local memory")

    def barrier(self, node: UOp, writer: Writer) -> str:
        raise UnsupportedError(f"[render] a {node.arg} barrier; this target has none")

    def matmul(self, node: UOp, writer: Writer) -> str:
        """The text of what the matrix unit `node.arg` computes of three fragments."""
        raise UnsupportedError(f"[render] matrix unit {node.arg.name}; this target has none")

    def commit(self, node: UOp, writer: Writer) -> str:
        raise UnsupportedError("[render] asynchronous stores; this target has none")

    def fetch(self, node: UOp, writer: Writer) -> str:
        raise UnsupportedError("[render] a box is fetched; this target cannot")

    def wait(self, node: UOp, writer: Writer) -> str:
        raise UnsupportedError("[render] asynchronous stores; this target has none")

    def shuffle(self, node: UOp, writer: Writer) -> str:
        """The value of the warp's other lane."""
        raise UnsupportedError("[render] a SHUFFLE; this target has no warps")

    # -- types and constants -----------------------------------------------------------------------

    def type(self, dtype: DType, writer: Writer) -> str:
        """The type of a value; vector types are declared when first used."""
        if dtype.lanes == 1:
            return self.types[dtype.name]
        dtype = dtypes.int8.vec(dtype.lanes) if dtype.kind == "b" else dtype
        name = f"{dtype.name}x{dtype.lanes}"
        if name in writer.declared:
            return name
        writer.declared.add(name)
        scalar, size = self.types[dtype.name], dtype.itemsize * dtype.lanes
        # The second type is for memory: any alignment, and other types may have written there.
        writer.declarations[
            f"typedef {scalar} {name} __attribute__((vector_size({size})));\n"
            f"typedef {scalar} {name}_memory "
            f"__attribute__((vector_size({size}), aligned({dtype.itemsize}), may_alias));"
        ] = None
        return name

    def stored(self, dtype: DType) -> str:
        """The type of a scalar in memory."""
        return "unsigned char" if dtype.kind == "b" else self.types[dtype.name]

    def constant(self, value: Scalar, dtype: DType) -> str:
        """A scalar constant."""
        text = self.types[dtype.name]
        if dtype.kind == "f":
            if dtype.name in self.bits_only:
                return f"(({text}){dtype.pattern(value)})"
            value = float(value)
            if math.isfinite(value):
                number = value.hex() + ("" if dtype.itemsize == 8 else "f")
            else:
                number = self.not_a_number if math.isnan(value) else self.infinity
                number = f"-{number}" if value < 0 else number
            return number if dtype.itemsize == 4 else f"(({text}){number})"
        number = int(value)
        if number == -(1 << 63):
            return "(-9223372036854775807LL - 1)"
        wide = self.index_bits == 64 if dtype.name == "index" else dtype.itemsize == 8
        suffix = ("u" if dtype.kind == "u" else "") + ("ll" if wide else "")
        literal = f"{number}{suffix}"
        return f"(({text}){literal})" if number < 0 or dtype.itemsize < 4 else literal

    def _constant(self, node: UOp, writer: Writer) -> str:
        dtype = node.dtype
        value = self.constant(node.arg, dtype.scalar)
        if dtype.lanes == 1:
            return value
        return self._let(self._repeat(value, dtype, writer), dtype, writer)

    def _repeat(self, value: str, dtype: DType, writer: Writer) -> str:
        """`value` in every lane; minus zero keeps its sign, and masks become 0 or -1."""
        text = self.type(dtype, writer)
        value = f"(signed char)-{value}" if dtype.kind == "b" else value
        return f"({value} - ({text}){{0}})"

    # -- the whole kernel --------------------------------------------------------------------------

    def render(self, kernel: LinearKernel) -> str:
        """The source with this one kernel."""
        writer = Writer(kernel)
        names, handlers = writer.names, self._handlers()
        for node in kernel.uops:
            row = self.operators.get(node.op)
            operator = None if row is None else row.get(kind_of(node.src[0].dtype))
            if operator is not None:
                names[node] = self._operator(operator, node, writer)
            else:
                names[node] = handlers[node.op](node, writer) or ""
        parameters = ", ".join(self.parameters(kernel))
        return "\n".join(
            [
                self.header,
                *writer.declarations,
                f"{self.qualifiers(kernel)} {self.function_name(kernel)}({parameters}) {{",
                *writer.entry,
                *writer.lines,
                # Stores past the caches come in no order; whoever sees the end must see them too.
                *(["__atomic_thread_fence(__ATOMIC_SEQ_CST);"] if writer.streams else []),
                "}",
                *filter(None, [self.epilogue(kernel)]),
                "",
            ]
        )

    def _handlers(self) -> dict[Op, Callable[[UOp, Writer], str | None]]:
        """How each operation that is not one plain operator is written."""
        return {
            Op.CONST: self._constant,
            Op.BUFFER: self._buffer,
            Op.VARIABLE: lambda node, writer: f"var_{node.arg.name}",
            Op.SPECIAL: self.special,
            Op.RANGE: self._range,
            Op.END: lambda node, writer: writer.lines.append("}"),
            Op.AFTER: lambda node, writer: writer.names[node.src[0]],
            Op.GROUP: lambda node, writer: None,
            Op.SINK: lambda node, writer: None,
            Op.BARRIER: lambda node, writer: writer.lines.append(self.barrier(node, writer)),
            Op.COMMIT: lambda node, writer: writer.lines.append(self.commit(node, writer)),
            Op.WAIT: lambda node, writer: writer.lines.append(self.wait(node, writer)),
            Op.FETCH: lambda node, writer: writer.lines.append(self.fetch(node, writer)),
            Op.INDEX: self._index,
            Op.LOAD: self._load,
            Op.STORE: self._store,
            Op.CAST: self._cast,
            Op.BITCAST: self._bitcast,
            Op.MAX: self._maximum,
            Op.MIN: self._maximum,
            Op.WHERE: self._where,
            Op.MULACC: self._multiply_add,
            Op.VECTOR: self._vector,
            Op.EXTRACT: self._extract,
            Op.MATMUL: self.matmul,
            Op.SHUFFLE: self.shuffle,
            **dict.fromkeys(self.functions, self._function),
        }

    def _let(self, text: str, dtype: DType, writer: Writer) -> str:
        """A new variable with that value."""
        writer.counter += 1
        name = f"v{writer.counter}"
        writer.lines.append(f"const {self.type(dtype, writer)} {name} = {text};")
        return name

    def _lanes(self, dtype: DType, values: list[str], writer: Writer) -> str:
        return f"({self.type(dtype, writer)}){{{', '.join(values)}}}"

    # -- arithmetic --------------------------------------------------------------------------------

    def _operator(self, operator: str, node: UOp, writer: Writer) -> str:
        a, b = (writer.names[s] for s in node.src)
        dtype, operand = node.dtype, node.src[0].dtype
        text = self.type(dtype, writer)
        if node.op in COMPARISON and operand.lanes > 1:
            if operand.kind == "b" and node.op is Op.LT:
                return self._let(f"~{a} & {b}", dtype, writer)
            # Comparing gives a mask as wide as the operands.
            wide = f"({a} {operator} {b})"
            return self._let(f"__builtin_convertvector({wide}, {text})", dtype, writer)
        if node.op in WRAPPING and operand.kind in "iu" and kind_of(operand) != "x":
            bits = operand.bits if operand.lanes > 1 else max(operand.bits, 32)
            unsigned = getattr(dtypes, f"uint{bits}").vec(operand.lanes)
            wrap = self.type(unsigned, writer)
            return self._let(f"({text})(({wrap}){a} {operator} ({wrap}){b})", dtype, writer)
        return self._let(f"{a} {operator} {b}", dtype, writer)

    def _function(self, node: UOp, writer: Writer) -> str:
        function = self.functions[node.op][node.dtype.name]
        operands = [writer.names[s] for s in node.src]
        if node.dtype.lanes == 1:
            return self._let(f"{function}({', '.join(operands)})", node.dtype, writer)
        calls = [
            f"{function}({', '.join(f'{o}[{lane}]' for o in operands)})"
            for lane in range(node.dtype.lanes)
        ]
        return self._let(self._lanes(node.dtype, calls, writer), node.dtype, writer)

    def _multiply_add(self, node: UOp, writer: Writer) -> str:
        a, b, c = (writer.names[s] for s in node.src)
        if node.dtype.lanes > 1 or node.dtype.itemsize == 2:
            return self._let(f"{a} * {b} + {c}", node.dtype, writer)
        function = "__builtin_fma" + ("f" if node.dtype.itemsize == 4 else "")
        return self._let(f"{function}({a}, {b}, {c})", node.dtype, writer)

    def _maximum(self, node: UOp, writer: Writer) -> str:
        """MAX and MIN: NaN where either operand is NaN (a NaN b is what is left over)."""
        a, b = (writer.names[s] for s in node.src)
        sign = ">" if node.op is Op.MAX else "<"
        first = f"({a} {sign} {b})" + (f" | ({a} != {a})" if node.dtype.kind == "f" else "")
        if node.dtype.lanes == 1:
            return self._let(f"({first}) ? {a} : {b}", node.dtype, writer)
        return self._select(first, a, b, node.dtype, writer)

    def _where(self, node: UOp, writer: Writer) -> str:
        condition, a, b = (writer.names[s] for s in node.src)
        if node.dtype.lanes == 1:
            return self._let(f"{condition} ? {a} : {b}", node.dtype, writer)
        mask = self.type(_mask_type(node.dtype), writer)
        wide = f"__builtin_convertvector({condition}, {mask})"
        return self._select(wide, a, b, node.dtype, writer)

    def _select(self, mask: str, a: str, b: str, dtype: DType, writer: Writer) -> str:
        """Lanes of `a` where the equally wide mask is -1, else of `b`."""
        bits = self.type(_mask_type(dtype), writer)
        flags = self._let(f"({bits})({mask})", _mask_type(dtype), writer)
        blend = f"(({bits}){a} & {flags}) | (({bits}){b} & ~{flags})"
        return self._let(f"({self.type(dtype, writer)})({blend})", dtype, writer)

    def _cast(self, node: UOp, writer: Writer) -> str:
        value, source, target = writer.names[node.src[0]], node.src[0].dtype, node.dtype
        text = self.type(target, writer)
        if target.lanes == 1:
            return self._let(f"({text}){value}", target, writer)
        if target.kind == "b" and source.kind != "b":
            value = self._nonzero(value, source, writer)
        elif source.kind == "b":
            value = f"(-{value})"
        return self._let(f"__builtin_convertvector({value}, {text})", target, writer)

    def _nonzero(self, value: str, dtype: DType, writer: Writer) -> str:
        return f"({value} != ({self.type(dtype, writer)}){{0}})"

    def _bitcast(self, node: UOp, writer: Writer) -> str:
        value, source, target = writer.names[node.src[0]], node.src[0].dtype, node.dtype
        if "b" in (source.kind, target.kind):
            return self._cast(node, writer)
        before, after = self.type(source, writer), self.type(target, writer)
        if target.lanes > 1:
            return self._let(f"({after}){value}", target, writer)
        union = f"((union {{ {before} a; {after} b; }}){{ .a = {value} }}).b"
        return self._let(union, target, writer)

    # -- vectors -----------------------------------------------------------------------------------

    def _vector(self, node: UOp, writer: Writer) -> str:
        values = [writer.names[s] for s in node.src]
        if node.dtype.lanes == 1:
            return values[0]
        if len(values) == 1:
            return self._let(self._repeat(values[0], node.dtype, writer), node.dtype, writer)
        lanes = node.src[0].dtype.lanes
        if lanes > 1:
            values = [f"{v}[{lane}]" for v in values for lane in range(lanes)]
        elif node.dtype.kind == "b":
            values = [f"-{v}" for v in values]
        return self._let(self._lanes(node.dtype, values, writer), node.dtype, writer)

    def _extract(self, node: UOp, writer: Writer) -> str:
        value, lanes = writer.names[node.src[0]], node.arg
        if len(lanes) == 1:
            truth = " != 0" if node.dtype.kind == "b" else ""
            return self._let(f"{value}[{lanes[0]}]{truth}", node.dtype, writer)
        picked = [f"{value}[{lane}]" for lane in lanes]
        return self._let(self._lanes(node.dtype, picked, writer), node.dtype, writer)

    # -- memory ------------------------------------------------------------------------------------

    def _buffer(self, node: UOp, writer: Writer) -> str:
        slot, size, space, _ = node.arg
        if space is AddressSpace.GLOBAL:
            return f"b{slot}"
        if space is AddressSpace.LOCAL:
            return self.local_buffer(node, writer)
        # A vector of bool is kept as the vector of bytes it is in memory.
        text = self.type(node.dtype, writer) if node.dtype.lanes > 1 else self.stored(node.dtype)
        writer.entry.append(f"__attribute__((aligned(64))) {text} r{slot}[{size}];")
        return f"r{slot}"

    def _index(self, node: UOp, writer: Writer) -> str:
        """The address of one element. Where the position is a vector: of the buffer."""
        buffer, position = node.src
        name = writer.names[buffer]
        return name if position.dtype.lanes > 1 else f"({name} + {writer.names[position]})"

    def _lane_addresses(self, address: UOp, lanes: int, writer: Writer) -> list[str]:
        base, position = writer.names[address], address.src[1]
        if position.dtype.lanes == 1:
            return [f"{base}[{lane}]" for lane in range(lanes)]
        return [f"{base}[{writer.names[position]}[{lane}]]" for lane in range(lanes)]

    def _whole(self, address: UOp, dtype: DType, writer: Writer, const: str = "const ") -> str:
        """The memory of a vector of `dtype` at this address."""
        space = self.spaces[buffer_of(address).arg.space]
        return f"*({const}{space}{self.type(dtype, writer)}_memory*){writer.names[address]}"

    def _load(self, node: UOp, writer: Writer) -> str:
        address, dtype = node.src[0], node.dtype
        alternative, gate = [writer.names[s] for s in node.src[1:]] or ("", "")
        masked = bool(gate) and node.src[2].dtype.lanes > 1
        if dtype.lanes == 1:
            value = f"*{writer.names[address]}" + (" != 0" if dtype.kind == "b" else "")
            value = f"{gate} ? ({value}) : {alternative}" if gate else value
            return self._let(value, dtype, writer)
        if address.src[1].dtype.lanes == 1 and not masked:
            value = self._whole(address, dtype, writer)
            value = self._nonzero(value, dtype, writer) if dtype.kind == "b" else value
            if gate:
                value = f"{gate} ? ({self.type(dtype, writer)}){value} : {alternative}"
            return self._let(value, dtype, writer)
        values = self._lane_addresses(address, dtype.lanes, writer)
        if dtype.kind == "b":
            values = [f"-({v} != 0)" for v in values]
        if gate:
            gates = self._gates(node.src[2], dtype.lanes, writer)
            others = (f"{alternative}[{lane}]" for lane in range(dtype.lanes))
            values = [f"{g} ? {v} : {o}" for g, v, o in zip(gates, values, others)]
        return self._let(self._lanes(dtype, values, writer), dtype, writer)

    def _store(self, node: UOp, writer: Writer) -> None:
        address, value = node.src[:2]
        dtype, name = value.dtype, writer.names[value]
        gate = node.src[2] if len(node.src) == 3 else None
        guard = f"if ({writer.names[gate]}) " if gate is not None and gate.dtype.lanes == 1 else ""
        if dtype.lanes == 1:
            writer.lines.append(f"{guard}*{writer.names[address]} = {name};")
            return
        name = self._let(f"{name} & 1", dtype, writer) if dtype.kind == "b" else name
        if address.src[1].dtype.lanes == 1 and (gate is None or guard):
            store = f"{self._whole(address, dtype, writer, '')} = {name};"
            if node.arg == "streaming":
                store = self._streaming_store(store, address, name, dtype, writer)
            writer.lines.append(guard + store)
            return
        targets = self._lane_addresses(address, dtype.lanes, writer)
        gates = self._gates(gate, dtype.lanes, writer) if gate is not None else None
        for lane, target in enumerate(targets):
            test = f"if ({gates[lane]}) " if gates is not None else ""
            writer.lines.append(f"{test}{target} = {name}[{lane}];")

    def _streaming_store(
        self, store: str, address: UOp, value: str, dtype: DType, writer: Writer
    ) -> str:
        """`store`, past the caches where the address allows it: a buffer may begin anywhere."""
        writer.streams = True
        writer.declarations[_NONTEMPORAL] = None
        place, text = writer.names[address], self.type(dtype, writer)
        aligned = f"((__UINTPTR_TYPE__){place} & {dtype.lanes * dtype.itemsize - 1}) == 0"
        past = f"__builtin_nontemporal_store({value}, ({text}*){place});"
        return f"{{ if ({aligned}) {past} else {store} }}"

    def _gates(self, gate: UOp, lanes: int, writer: Writer) -> list[str]:
        name = writer.names[gate]
        return [name] * lanes if gate.dtype.lanes == 1 else [f"{name}[{i}]" for i in range(lanes)]

    # -- loops -------------------------------------------------------------------------------------

    def _range(self, node: UOp, writer: Writer) -> str:
        writer.counter += 1
        name, size = f"i{writer.counter}", writer.names[node.src[0]]
        writer.lines.append(f"for ({self.types['index']} {name} = 0; {name} < {size}; {name}++) {{")
        return name


def _mask_type(dtype: DType) -> DType:
    """Signed integers as wide as `dtype`: what comparing such vectors gives."""
    return getattr(dtypes, f"int{dtype.bits}").vec(dtype.lanes)
