"""Builds small linear kernels, compiles their text and calls them on NumPy arrays."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dovetile.dtypes import DType
from dovetile.ir import Op, RuleSet, UOp, rewrite, toposort
from dovetile.lower.linear import LinearKernel
from dovetile.plugins.specs import WIDE_DTYPES, Capabilities
from dovetile.render import HostCStyleRenderer, HostLlvmIrRenderer, in_lanes

# What the tests let the renderers write natively; everything else is decomposed by the core.
CAPABILITIES = Capabilities(
    architecture="test",
    arithmetic_dtypes=WIDE_DTYPES,
    native_ops=frozenset({"SQRT", "TRUNC", "MULACC"}),
    local_bytes=1 << 16,
)


def broadcast(value: UOp, lanes: int) -> UOp:
    """`value` in every lane."""
    return value if lanes == 1 else UOp(Op.VECTOR, value.dtype.vec(lanes), (value,))


def elementwise_kernel(
    function: Callable[..., UOp],
    inputs: list[DType],
    output: DType,
    count: int,
    lanes: int = 1,
    rules: RuleSet | None = None,
) -> LinearKernel:
    """`out[i] = function(in1[i], in2[i], ...)` over `count` elements, `lanes` at a time.

    Slot 0 is the output. `count` must be a multiple of `lanes`.
    """
    loop = UOp.range(count // lanes, id=0)
    position = loop * lanes if lanes > 1 else loop
    values = [
        UOp.buffer(count, dtype, slot=slot).index(position).load(dtype=dtype.vec(lanes))
        for slot, dtype in enumerate(inputs, 1)
    ]
    store = UOp.buffer(count, output, slot=0).index(position).store(function(*values))
    return linear(store.end(loop), rules=rules)


def linear(root: UOp, rules: RuleSet | None = None) -> LinearKernel:
    """The kernel of nested loops: depth first, but arithmetic that needs only the loops already
    open is placed before a loop begins."""
    root = UOp.sink(root)
    if rules is not None:
        root = rewrite(root, rules)
    nodes = toposort(root)
    pure: set[UOp] = set()
    for node in nodes:
        effect = node.op in (Op.LOAD, Op.AFTER, Op.STORE, Op.END, Op.GROUP, Op.SINK)
        if not effect and all(s in pure for s in node.src):
            pure.add(node)
    order: dict[UOp, None] = {}
    opened: set[UOp] = set()

    def place(node: UOp) -> None:
        if node in order:
            return
        if node.op is Op.RANGE:
            place(node.src[0])
            order.update(dict.fromkeys(n for n in nodes if n in pure and n.ranges <= opened))
            opened.add(node)
        for s in node.src[:1] if node.op is Op.END else node.src:
            place(s)
        order[node] = None

    place(root)
    return LinearKernel.of("kernel", list(order))


class LlvmCompiler:
    """LLVM IR, compiled in process."""

    def __init__(self, capabilities: Capabilities = CAPABILITIES) -> None:
        self.renderer = HostLlvmIrRenderer(capabilities)

    @staticmethod
    def available() -> bool:
        try:
            import llvmlite.binding  # noqa: F401
        except ImportError:
            return False
        return True

    def _optimized(self, source: str):
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=2,
            reloc="pic",
            codemodel="jitdefault",
            jit=True,
        )
        module = llvm.parse_assembly(source)
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
        return llvm, machine, module

    def compile(self, source: str) -> tuple[object, int]:
        """(what must stay alive, address of the function)."""
        llvm, machine, module = self._optimized(source)
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        return engine, engine.get_function_address("kernel")

    def assembly(self, source: str) -> str:
        _, machine, module = self._optimized(source)
        return machine.emit_assembly(module)


class CCompiler:
    """C, compiled by a compiler of the system."""

    def __init__(self, command: str, capabilities: Capabilities = CAPABILITIES) -> None:
        self.command = command
        self.renderer = HostCStyleRenderer(capabilities)

    def available(self) -> bool:
        return shutil.which(self.command) is not None

    def compile(self, source: str) -> tuple[object, int]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.c"
            path.write_text(source)
            flags = "-O2 -march=native -shared -fPIC -fno-math-errno -fno-builtin -w".split()
            command = [self.command, *flags, str(path), "-o", f"{folder}/kernel.so"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{done.stderr}\n{source}"
            library = ctypes.CDLL(f"{folder}/kernel.so")
        return library, ctypes.cast(library.kernel, ctypes.c_void_p).value or 0


class InLanes:
    """Another compiler's, of kernels without vector arithmetic."""

    def __init__(self, compiler: LlvmCompiler | CCompiler) -> None:
        self.available, self.compile = compiler.available, compiler.compile
        self.within, self.renderer = compiler.renderer, self

    def render(self, kernel: LinearKernel) -> str:
        scalar = in_lanes(kernel, 16, 16)
        for node in scalar.uops:
            if node.dtype.lanes > 1:
                access = node.op is Op.LOAD or node.op is Op.VECTOR
                assert access and node.dtype.lanes * node.dtype.itemsize <= 16
        return self.within.render(scalar)


def call(compiler, kernel: LinearKernel, *arrays: np.ndarray, scalars: tuple = ()) -> str:
    """Compiles a kernel and runs every part of it on these buffers; returns its source."""
    source = compiler.renderer.render(kernel)
    keep, address = compiler.compile(source)
    function = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
    )(address)
    pointers = (ctypes.c_void_p * max(len(arrays), 1))(*[a.ctypes.data for a in arrays])
    values = (ctypes.c_int64 * max(len(scalars), 1))(*scalars)
    scratch = np.zeros(kernel.local_bytes + 64, np.uint8)
    aligned = -(-scratch.ctypes.data // 64) * 64
    for part in range(kernel.parts):
        assert function(pointers, values, part, aligned) == 0
    del keep
    return source


_ALL = {
    "llvm": LlvmCompiler(),
    "llvm in lanes": InLanes(LlvmCompiler()),
    "clang": CCompiler("clang"),
    "gcc": CCompiler("gcc"),
}
COMPILERS = [
    pytest.param(
        compiler,
        id=name,
        marks=pytest.mark.skipif(not compiler.available(), reason=f"{name} is not installed"),
    )
    for name, compiler in _ALL.items()
]
