"""CUDA C++ for `CudaCompiler`: the core's C-style renderer with scalars for vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.errors import UnsupportedError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.lower.early import await_launches
from dovetile.lower.linear import LinearKernel
from dovetile.plugins import Capabilities
from dovetile.render import CStyleRenderer, Writer, in_lanes, indices_fit
from dovetile_nv import boxes, matrix_units, warpgroup
from dovetile_nv.capabilities import ACCESS_BYTES, architecture_of
from dovetile_nv.cuda_prelude import prelude
from dovetile_nv.program_form import (
    GLOBAL_ALIGNMENT,
    LOCAL_ALIGNMENT,
    is_dynamic,
    size_name,
)

_TYPES = {"bool": "bool", "float16": "float16", "bfloat16": "bfloat16"}
_SMALL = ("float16", "bfloat16")
# Of a thread's registers, what may be filled before a launch awaits those before it.
_EARLY_BYTES = 256
_PANELS = """
static __device__ inline unsigned shared_address(const void* place) {
  return (unsigned)__cvta_generic_to_shared(place);
}
static __device__ inline unsigned long long panel(const void* place, unsigned long long form) {
  return (shared_address(place) & 0x3ffff) >> 4 | form;
}
"""
_INDICES = {"group": "blockIdx.x", "local": "threadIdx.x"}


class CudaRenderer:
    """Writes linear kernels in CUDA C++."""

    language = "cuda"

    def __init__(self, capabilities: Capabilities) -> None:
        self._narrow = _Text(capabilities, 32)
        self._wide = _Text(capabilities, 64)

    def render(self, kernel: LinearKernel) -> str:
        """The source with this one kernel. Indices have 32 bits where that is enough: arithmetic
        on 64 takes several instructions each."""
        kernel = in_lanes(kernel, ACCESS_BYTES, GLOBAL_ALIGNMENT)
        if self._narrow.capabilities.early_launches:
            kernel = await_launches(kernel, _EARLY_BYTES)
        return (self._narrow if indices_fit(kernel, 32) else self._wide).render(kernel)


class _Text(CStyleRenderer):
    types = {**CStyleRenderer.types, **_TYPES}
    functions = {
        Op.SQRT: {"float32": "sqrtf", "float64": "sqrt"},
        Op.TRUNC: {"float32": "truncf", "float64": "trunc"},
        # Its one instruction, with the scaling that denormal results need.
        Op.EXP2: {"float32": "exp2f"},
    }
    header = ""
    restrict = "__restrict__"
    not_a_number, infinity = "__int_as_float(0x7fc00000)", "__int_as_float(0x7f800000)"

    def render(self, kernel: LinearKernel) -> str:
        number = architecture_of(self.capabilities.architecture).number
        used = frozenset(node.dtype.name for node in kernel.uops)
        return prelude(number, used) + super().render(kernel)

    def qualifiers(self, kernel: LinearKernel) -> str:
        return f'extern "C" __global__ void __launch_bounds__({kernel.threads})'

    def parameters(self, kernel: LinearKernel) -> list[str]:
        buffers = super().parameters(kernel)[: len(kernel.buffers)]
        values = [f"const long long value_{v.arg.name}" for v in kernel.variables]
        count = len(boxes.tensor_maps(kernel))
        return (
            buffers + values + [f"const __grid_constant__ tensor_map map_{i}" for i in range(count)]
        )

    def epilogue(self, kernel: LinearKernel) -> str:
        lines = []
        if is_dynamic(kernel):
            size = kernel.local_bytes
            lines.append(f'extern "C" __device__ unsigned {size_name(kernel)} = {size};')
        maps = boxes.tensor_maps(kernel)
        if maps:
            words = boxes.data_words(maps.values())
            name, text = boxes.data_name(kernel.name), ", ".join(map(str, words))
            lines.append(
                f'extern "C" __device__ unsigned long long {name}[{len(words)}] = {{{text}}};'
            )
        return "\n".join(lines)

    def _handlers(self) -> dict[Op, Callable[[UOp, Writer], str | None]]:
        return {**super()._handlers(), Op.VARIABLE: self._variable, Op.END: self._end}

    def _variable(self, node: UOp, writer: Writer) -> str:
        name, index = node.arg.name, self.types["index"]
        writer.entry.append(f"const {index} var_{name} = ({index})value_{name};")
        return f"var_{name}"

    def special(self, node: UOp, writer: Writer) -> str:
        if node.arg not in _INDICES:
            return super().special(node, writer)
        return self._let(f"({self.types['index']}){_INDICES[node.arg]}", node.dtype, writer)

    def local_buffer(self, node: UOp, writer: Writer) -> str:
        dynamic = is_dynamic(writer.kernel)
        linkage, size = ("extern ", "") if dynamic else ("", writer.kernel.local_bytes)
        writer.declarations[
            f"{linkage}__shared__ __align__({LOCAL_ALIGNMENT}) unsigned char local_memory[{size}];"
        ] = None
        name, text = f"local_{node.arg.slot}_{len(writer.entry)}", self.stored(node.dtype)
        writer.entry.append(f"{text}* {name} = ({text}*)(local_memory + {node.arg.slot});")
        return name

    def barrier(self, node: UOp, writer: Writer) -> str:
        if node.arg == "launch":
            return (
                'asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); '
                'asm volatile("griddepcontrol.wait;" ::: "memory");'
            )
        if node.arg != "workgroup":
            return super().barrier(node, writer)
        # The matrix unit reads memory past the threads' own way to it.
        fence = 'asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); '
        return (
            fence if matrix_units.reads_stores(writer.kernel, node) else ""
        ) + "__syncthreads();"

    def commit(self, node: UOp, writer: Writer) -> str:
        return 'asm volatile("cp.async.commit_group;" ::: "memory");'

    def fetch(self, node: UOp, writer: Writer) -> str:
        rank = len(node.arg.sizes)
        self._declare_boxes(writer, rank)
        number = list(boxes.tensor_maps(writer.kernel)).index((node.src[3], node.arg))
        to, place, gate = (writer.names[s] for s in node.src[:3])
        starts = ", ".join(f"(int){writer.names[s]}" for s in node.src[4:])
        call = f"fetch_{rank}({to}, {place}, map_{number}, {boxes.box_bytes(node)}, {starts});"
        return f"if ({gate}) {call}"

    def _declare_boxes(self, writer: Writer, rank: int = 0) -> None:
        writer.declarations[boxes.HELPERS] = None
        if rank:
            writer.declarations[boxes.fetch_helper(rank)] = None

    def wait(self, node: UOp, writer: Writer) -> str:
        if node.arg is None:
            place, number = (writer.names[s] for s in node.src[:2])
            return f"await_round({place}, (unsigned){number});"
        return f'asm volatile("cp.async.wait_group {node.arg};" ::: "memory");'

    def matmul(self, node: UOp, writer: Writer) -> str:
        """Products of one sum follow each other: begun together, and awaited together."""
        unit = node.arg
        writer.declarations[_PANELS] = None
        a, b, start = (writer.names[s] for s in node.src)
        first = all(lane.constant == 0 for lane in node.src[2].src)
        goes_on = matrix_units.goes_on(unit)
        if node.src[2].op is Op.MATMUL:
            name = start
        else:
            writer.counter += 1
            name = f"v{writer.counter}"
            # What an instruction that adds nothing to it sets needs no start.
            begun = "" if first and goes_on else f" = {start}"
            writer.lines.append(f"{self.type(node.dtype, writer)} {name}{begun};")
            if goes_on:
                _assembly("wgmma.fence.sync.aligned;", writer)
        panels = [f'"r"(shared_address({x}))' for x in (a, b)]
        if goes_on:
            forms = warpgroup.panel_forms(unit)
            panels = [f'"l"(panel({x}, {form}ull))' for x, form in zip((a, b), forms)]
        steps = [panels]
        if unit.held:
            packed, form = self._packed(node.src[0], writer), warpgroup.panel_forms(unit)[1]
            steps = [
                [
                    *(f'"r"({x})' for x in packed[begin:end]),
                    f'"l"(panel((const char*){b} + {away}, {form}ull))',
                ]
                for begin, end, away in warpgroup.held_steps(unit)
            ]
        register = "r" if unit.accumulator == "int32" else "f"
        for number, operands in enumerate(steps):
            adds = not (first and goes_on) or number > 0
            kind = "+" if adds else "="
            lanes = ", ".join(f'"{kind}{register}"({name}._{lane})' for lane in range(unit.lanes))
            text = matrix_units.assembly(unit, "%", "%%", unit.lanes, adds)
            writer.lines.append(
                f'asm volatile("{text}" : {lanes} : {", ".join(operands)} : "memory");'
            )
        last = all(node is not other.src[2] for other in matrix_units.products(writer.kernel))
        if last and goes_on:
            _assembly("wgmma.commit_group.sync.aligned;", writer)
            # In a loop, those of one step that are only added up go on during the next, and are
            # awaited behind the loop; others where they are used.
            if matrix_units.only_kept(node, writer.kernel):
                _assembly(warpgroup.awaited(1 if node.ranges else 0), writer)
        return name

    def _packed(self, value: UOp, writer: Writer) -> list[str]:
        """The lanes of an operand that a unit takes from registers, two in each."""
        function, text = matrix_units.pack_helper(value.dtype.name)
        writer.declarations[text] = None
        lanes = [
            writer.names[lane.src[0]] if lane.op is Op.CAST else f"float({writer.names[lane]})"
            for lane in value.src
        ]
        pairs = []
        for low, high in zip(lanes[::2], lanes[1::2]):
            writer.counter += 1
            pairs.append(f"v{writer.counter}")
            writer.lines.append(f"const unsigned {pairs[-1]} = {function}({low}, {high});")
        return pairs

    def _end(self, node: UOp, writer: Writer) -> None:
        writer.lines.append("}")
        if matrix_units.ends_products(node, writer.kernel):
            _assembly(warpgroup.awaited(0), writer)

    def shuffle(self, node: UOp, writer: Writer) -> str:
        value, dtype = writer.names[node.src[0]], node.dtype
        small = dtype.name in _SMALL
        if small and self.types[dtype.name] == dtype.name:
            value = f"{value}.bits"
        other = f"__shfl_xor_sync(0xffffffffu, {value}, {node.arg})"
        if small and self.types[dtype.name] == dtype.name:
            return self._let(f"{dtype.name}{{(unsigned short){other}}}", dtype, writer)
        return self._let(f"({self.type(dtype, writer)}){other}", dtype, writer)

    # -- types and constants -----------------------------------------------------------------------

    def type(self, dtype: DType, writer: Writer) -> str:
        if dtype.lanes == 1:
            return self.types[dtype.name]
        name = f"{dtype.name}x{dtype.lanes}"
        members = ", ".join(f"_{lane}" for lane in range(dtype.lanes))
        size = dtype.itemsize * dtype.lanes
        writer.declarations[
            f"struct __align__({size & -size}) {name} {{ {self.stored(dtype.scalar)} {members}; }};"
        ] = None
        return name

    def constant(self, value: Scalar, dtype: DType) -> str:
        text = self.types[dtype.name]
        if text in _SMALL:
            bits = np.asarray(value).astype(dtypes.to_numpy(dtype)).view(np.uint16)
            return f"{text}{{{int(bits)}}}"
        return super().constant(value, dtype)

    # -- arithmetic --------------------------------------------------------------------------------

    def _function(self, node: UOp, writer: Writer) -> str:
        if node.arg == "approximate" and node.dtype is dtypes.float32:
            value = f"approximate_exp2({writer.names[node.src[0]]})"
            return self._let(value, node.dtype, writer)
        return super()._function(node, writer)

    def _operator(self, operator: str, node: UOp, writer: Writer) -> str:
        if node.arg == "approximate" and node.dtype is dtypes.float32:
            a, b = (writer.names[s] for s in node.src)
            return self._let(f"approximate_quotient({a}, {b})", node.dtype, writer)
        if node.op in (Op.FLOORDIV, Op.FLOORMOD) and node.dtype.name == "index":
            # Neither is negative, and unsigned division is shorter.
            a, b = (writer.names[s] for s in node.src)
            text, unsigned = self.types["index"], self.types[f"uint{self.index_bits}"]
            quotient = f"({text})(({unsigned}){a} {operator} ({unsigned}){b})"
            return self._let(quotient, node.dtype, writer)
        return super()._operator(operator, node, writer)

    def _multiply_add(self, node: UOp, writer: Writer) -> str:
        return self._let(
            f"fused({', '.join(writer.names[s] for s in node.src)})", node.dtype, writer
        )

    def _maximum(self, node: UOp, writer: Writer) -> str:
        if node.dtype.kind != "f":
            return super()._maximum(node, writer)
        a, b = (writer.names[s] for s in node.src)
        name = "maximum" if node.op is Op.MAX else "minimum"
        return self._let(f"{name}({a}, {b})", node.dtype, writer)

    def _cast(self, node: UOp, writer: Writer) -> str:
        source, text = node.src[0].dtype, self.types[node.dtype.name]
        if text not in _SMALL or source is node.dtype:
            return super()._cast(node, writer)
        wide = "double" if source is dtypes.float64 and text == "float16" else "float"
        return self._let(f"to_{text}(({wide}){writer.names[node.src[0]]})", node.dtype, writer)

    def _bitcast(self, node: UOp, writer: Writer) -> str:
        if "b" in (node.src[0].dtype.kind, node.dtype.kind):
            return self._cast(node, writer)
        text = self.type(node.dtype, writer)
        return self._let(f"bits_as<{text}>({writer.names[node.src[0]]})", node.dtype, writer)

    # -- whole accesses to memory, the only vectors there are --------------------------------------

    def _vector(self, node: UOp, writer: Writer) -> str:
        member = self.stored(node.dtype.scalar)
        values = [writer.names[s] for s in node.src] * (node.dtype.lanes // len(node.src))
        if node.dtype.itemsize < 4 and member not in _SMALL:
            values = [f"({member}){value}" for value in values]
        text = self.type(node.dtype, writer)
        return self._let(f"{text}{{{', '.join(values)}}}", node.dtype, writer)

    def _extract(self, node: UOp, writer: Writer) -> str:
        product = node.src[0]
        if product.op is Op.MATMUL and matrix_units.goes_on(product.arg):
            groups = matrix_units.first_uses(writer.kernel).get(node)
            if groups is not None:
                # What reads the lanes comes later.
                name, lanes = writer.names[product], range(product.dtype.lanes)
                ties = ", ".join(f'"+f"({name}._{lane})' for lane in lanes)
                text = warpgroup.awaited(groups)
                writer.lines.append(f'asm volatile("{text}" : {ties} : : "memory");')
        truth = " != 0" if node.dtype.kind == "b" else ""
        value = f"{writer.names[node.src[0]]}._{node.arg[0]}{truth}"
        return self._let(value, node.dtype, writer)

    def _load(self, node: UOp, writer: Writer) -> str:
        if node.dtype.lanes == 1:
            return super()._load(node, writer)
        value = self._whole(node.src[0], node.dtype, writer)
        if len(node.src) == 3:
            value = f"{writer.names[node.src[2]]} ? {value} : {writer.names[node.src[1]]}"
        return self._let(value, node.dtype, writer)

    def _whole(self, address: UOp, dtype: DType, writer: Writer, const: str = "const ") -> str:
        return f"*({const}{self.type(dtype, writer)}*){writer.names[address]}"

    def _store(self, node: UOp, writer: Writer) -> None:
        address, value = node.src[:2]
        if node.arg == "async":
            return self._copy_ahead(address, value, writer)
        if node.arg == "arrivals":
            self._declare_boxes(writer)
            guard = f"if ({writer.names[node.src[2]]}) " if len(node.src) == 3 else ""
            place, count = writer.names[address], writer.names[value]
            writer.lines.append(f"{guard}begin_rounds({place}, (unsigned){count});")
            return None
        if value.dtype.lanes == 1:
            return super()._store(node, writer)
        guard = f"if ({writer.names[node.src[2]]}) " if len(node.src) == 3 else ""
        target = self._whole(address, value.dtype, writer, const="")
        writer.lines.append(f"{guard}{target} = {writer.names[value]};")

    def _copy_ahead(self, to: UOp, load: UOp, writer: Writer) -> None:
        nbytes = load.dtype.itemsize * load.dtype.lanes
        if load.op is not Op.LOAD or nbytes not in (4, 8, 16):
            raise UnsupportedError(
                f"[render] an asynchronous store of {nbytes} bytes from {load.op.name}"
            )
        writer.declarations[warpgroup.copy_helper(nbytes)] = None
        gate = writer.names[load.src[2]] if len(load.src) == 3 else "true"
        source, target = writer.names[load.src[0]], writer.names[to]
        writer.lines.append(f"copy_ahead_{nbytes}({target}, {source}, {gate});")

    def _buffer(self, node: UOp, writer: Writer) -> str:
        name = super()._buffer(node, writer)
        if name.startswith("r"):  # an array that is indexed by constants becomes registers
            writer.entry[-1] = f"{self.stored(node.dtype)} {name}[{node.arg.size}];"
        return name


def _assembly(text: str, writer: Writer) -> None:
    writer.lines.append(f'asm volatile("{text}" ::: "memory");')
