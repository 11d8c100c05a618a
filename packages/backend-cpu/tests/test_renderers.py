"""Kernels of the core's IR, from both renderers through both compilers."""

from __future__ import annotations

import numpy as np
import pytest

from dovetile import dtypes
from dovetile.ir import Op, UOp, toposort
from dovetile.lower.linear import LinearKernel
from dovetile.plugins import open_device
from dovetile.runtime import Buffer, compile_programs
from dovetile_cpu import clang_compiler


@pytest.mark.parametrize("name", ["CPU:LLVM", "CPU:CLANG"])
@pytest.mark.parametrize("lanes", [1, 16])
def test_square_roots_of_sums(name: str, lanes: int) -> None:
    if name == "CPU:CLANG" and clang_compiler.find() is None:
        pytest.skip("needs clang, which is not installed")
    device = open_device(name)
    count = 64
    loop = UOp.range(count // lanes, id=0)
    position = loop * lanes
    left, right, out = (UOp.buffer(count, dtypes.float32, slot=slot) for slot in (1, 2, 0))
    dtype = dtypes.float32.vec(lanes)
    values = [b.index(position).load(dtype=dtype) for b in (left, right)]
    total = values[0] + values[1]
    root = UOp(Op.SQRT, total.dtype, (total,))
    nodes = toposort(UOp.sink(out.index(position).store(root).end(loop)))
    kernel = LinearKernel.of("roots", nodes)
    (program,) = compile_programs(device, [("roots", device.renderer.render(kernel))])
    generator = np.random.default_rng(3)
    a, b = generator.random((2, count), np.float32)
    result = Buffer(device, count * 4, dtypes.float32)
    inputs = [Buffer.from_numpy(device, array) for array in (a, b)]
    device.queue.launch(program, [result, *inputs])
    np.testing.assert_array_equal(result.to_numpy(), np.sqrt(a + b))
