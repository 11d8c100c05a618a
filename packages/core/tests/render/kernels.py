"""Builds small linear kernels, compiles their text and calls them on NumPy arrays."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir import RuleSet, UOp, rewrite, toposort
from dovetile.lower.linear import LinearKernel
from dovetile.render import HostLlvmIrRenderer


def broadcast(value: UOp, lanes: int) -> UOp:
    """`value` in every lane."""
    from dovetile.ir import Op

    return value if lanes == 1 else UOp(Op.VECTOR, value.dtype.vec(lanes), (value,))


def elementwise_kernel(
    function: Callable[..., UOp],
    inputs: list[DType],
    output: DType,
    count: int,
    lanes: int = 1,
    rules: RuleSet | None = None,
    ctx: object = None,
) -> LinearKernel:
    """`out[i] = function(in0[i], in1[i], ...)` over `count` elements, `lanes` at a time.

    Slot 0 is the output. `count` must be a multiple of `lanes`.
    """
    loop = UOp.range(count // lanes, id=0)
    position = loop * lanes if lanes > 1 else loop
    values = []
    for slot, dtype in enumerate(inputs, 1):
        buffer = UOp.buffer(count, dtype, slot=slot)
        values.append(buffer.index(position).load(dtype=dtype.vec(lanes)))
    out = UOp.buffer(count, output, slot=0)
    result = function(*values)
    store = out.index(position).store(result)
    return linear("kernel", store.end(loop), rules=rules, ctx=ctx)


def linear(name: str, *effects: UOp, rules: RuleSet | None = None, ctx: object = None):
    """The kernel of effects whose order of evaluation is their topological order."""
    root = UOp.sink(*effects)
    if rules is not None:
        root = rewrite(root, rules, ctx)
    nodes = toposort(root)
    # What depends on no loop must not be evaluated inside one: loops begin where they are needed.
    ordered = [n for n in nodes if not n.ranges and n.op.name not in ("STORE", "END", "SINK")]
    rest = [n for n in nodes if n not in set(ordered)]
    return LinearKernel.of(name, [*ordered, *rest])


class LlvmCompiler:
    """Compiles LLVM IR text in process."""

    renderer = HostLlvmIrRenderer()

    def compile(self, source: str) -> tuple[object, int]:
        llvm = pytest.importorskip("llvmlite.binding")
        machine = _machine()
        module = llvm.parse_assembly(source)
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        passes = llvm.create_pass_builder(machine, options)
        passes.getModulePassManager().run(module, passes)
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        return engine, engine.get_function_address("kernel")

    def assembly(self, source: str) -> str:
        llvm = pytest.importorskip("llvmlite.binding")
        machine = _machine()
        module = llvm.parse_assembly(source)
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        passes = llvm.create_pass_builder(machine, options)
        passes.getModulePassManager().run(module, passes)
        return machine.emit_assembly(module)


def _machine():
    llvm = pytest.importorskip("llvmlite.binding")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=2,
        reloc="pic",
        codemodel="jitdefault",
        jit=True,
    )


def call(compiler, kernel: LinearKernel, arrays: list[np.ndarray], scalars=(), parts=None) -> str:
    """Compiles and runs a kernel (every part of it) on these buffers; returns its source."""
    source = compiler.renderer.render(kernel)
    keep, address = compiler.compile(source)
    run(address, kernel, arrays, scalars)
    del keep
    return source


def run(address: int, kernel: LinearKernel, arrays: list[np.ndarray], scalars=()) -> None:
    function = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
    )(address)
    pointers = (ctypes.c_void_p * max(len(arrays), 1))(*[a.ctypes.data for a in arrays])
    values = (ctypes.c_int64 * max(len(scalars), 1))(*scalars)
    scratch = np.zeros(kernel.local_bytes + 64, np.uint8)
    aligned = -(-scratch.ctypes.data // 64) * 64
    for part in range(kernel.parts):
        assert function(pointers, values, part, aligned) == 0


def numpy_array(count: int, dtype: DType) -> np.ndarray:
    return np.zeros(count, dtypes.to_numpy(dtype))


__all__ = ["LlvmCompiler", "broadcast", "call", "elementwise_kernel", "linear", "numpy_array"]
_ = (subprocess, tempfile, Path)
