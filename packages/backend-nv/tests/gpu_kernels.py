"""Linear kernels in the form that GPUs run, built by hand, and their machine code."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir import Op, UOp, rewrite
from dovetile.ir.spec import check
from dovetile.lower.decompose import decompositions, widen
from dovetile.lower.linear import LinearKernel
from dovetile.lower.linearize import linearize
from dovetile.plugins import Capabilities
from dovetile.plugins.specs import WIDE_DTYPES
from dovetile_nv import cuda_compiler, disassembly, ptx_compiler
from dovetile_nv.capabilities import ARCHITECTURES, architecture_of, capabilities_of
from dovetile_nv.cuda_renderer import CudaRenderer
from dovetile_nv.ptx_renderer import PtxRenderer

HOPPER = "sm_90a"
NAMES = ("CUDA", "PTX")
_MODULES = {"CUDA": cuda_compiler, "PTX": ptx_compiler}
_RENDERERS = {"CUDA": CudaRenderer, "PTX": PtxRenderer}
_COMPILERS = {"CUDA": cuda_compiler.CudaCompiler, "PTX": ptx_compiler.PtxCompiler}

COMPILERS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            _MODULES[name].available() is not None, reason=_MODULES[name].available() or ""
        ),
    )
    for name in NAMES
]
compilers = pytest.mark.parametrize("compiler", COMPILERS)
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
disassembled = pytest.mark.skipif(
    disassembly.available() is not None, reason=disassembly.available() or ""
)


@cache
def target(architecture: str) -> Capabilities:
    return capabilities_of(architecture_of(architecture))


def computing_small(architecture: str = HOPPER) -> Capabilities:
    """The target, told to compute in small floats as they are."""
    return replace(target(architecture), arithmetic_dtypes=WIDE_DTYPES | {"float16", "bfloat16"})


def group(size: int) -> UOp:
    """Which workgroup this is."""
    return UOp(Op.SPECIAL, dtypes.index, (UOp.const(size),), "group")


def thread(size: int) -> UOp:
    """Which thread of the workgroup this is."""
    return UOp(Op.SPECIAL, dtypes.index, (UOp.const(size),), "local")


def linear(
    root: UOp, architecture: str = HOPPER, capabilities: Capabilities | None = None
) -> LinearKernel:
    """The kernel of these effects, decomposed for an architecture."""
    capabilities = capabilities or target(architecture)
    sink = widen(UOp.sink(root), capabilities)
    program = linearize(rewrite(sink, decompositions(capabilities)))
    check(program, "program", "test")
    return LinearKernel.of("kernel", program)


def elementwise(
    function,
    inputs: list[DType],
    lanes: int = 1,
    capabilities: Capabilities | None = None,
) -> LinearKernel:
    """`out[i] = function(in1[i], in2[i], ...)`, `lanes` elements a thread; slot 0 is the output."""
    count = 1024 * 256 * lanes
    position = (group(1024) * 256 + thread(256)) * lanes
    values = [
        UOp.buffer(count, dtype, slot=slot).index(position).load(dtype=dtype.vec(lanes))
        for slot, dtype in enumerate(inputs, 1)
    ]
    value = function(*values)
    out = UOp.buffer(count, value.dtype.scalar, slot=0)
    return linear(out.index(position).store(value), capabilities=capabilities)


def source_of(compiler: str, kernel: LinearKernel, architecture: str = HOPPER) -> str:
    return _RENDERERS[compiler](target(architecture)).render(kernel)


def cubin_of(compiler: str, kernel: LinearKernel, architecture: str = HOPPER) -> bytes:
    """The machine code of a kernel, which must be assembled without a word."""
    source = source_of(compiler, kernel, architecture)
    cubin = _COMPILERS[compiler](target(architecture)).compile(source)
    assert cubin[:4] == b"\x7fELF"
    return cubin


def instructions_of(compiler: str, kernel: LinearKernel, architecture: str = HOPPER) -> list[str]:
    """The instructions of a kernel, none of which spills registers to local memory."""
    words = disassembly.instructions(cubin_of(compiler, kernel, architecture), kernel.name)
    assert "EXIT" in words
    assert not [word for word in words if word.startswith(("LDL", "STL"))]
    return words
