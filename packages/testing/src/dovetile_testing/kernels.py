"""Small kernels built by hand, to test a backend before anything of the compiler's upper half."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.lower.linear import LinearKernel
from dovetile.runtime import Buffer, Device, Program, compile_programs

_numbers = itertools.count()


def linear(*effects: UOp) -> LinearKernel:
    """A kernel of these effects, under a name of its own.

    What depends on no loop comes first, so that no loop begins before it is needed.
    """
    nodes = toposort(UOp.sink(*effects))
    first = [n for n in nodes if not n.ranges and n.op not in (Op.STORE, Op.END, Op.SINK)]
    rest = [n for n in nodes if n not in set(first)]
    return LinearKernel.of(f"conformance_{next(_numbers)}", [*first, *rest])


def elementwise(
    function: Callable[..., UOp], inputs: Sequence[DType], output: DType, count: int
) -> LinearKernel:
    """``out[i] = function(in1[i], in2[i], ...)`` for `count` elements; slot 0 is the output."""
    loop = UOp.range(count, id=0)
    values = [
        UOp.buffer(count, dtype, slot=slot).index(loop).load()
        for slot, dtype in enumerate(inputs, 1)
    ]
    out = UOp.buffer(count, output, slot=0)
    return linear(out.index(loop).store(function(*values)).end(loop))


def load(device: Device, *kernels: LinearKernel) -> list[Program]:
    """Render, compile and load kernels for a device."""
    sources = [(kernel.name, device.renderer.render(kernel)) for kernel in kernels]
    return compile_programs(device, sources)


def buffer(device: Device, content: np.ndarray) -> Buffer:
    """A buffer of the device with this content."""
    return Buffer.from_numpy(device, content)


def empty(device: Device, count: int, dtype: DType) -> Buffer:
    return Buffer(device, count * dtype.itemsize, dtype)


def run(device: Device, kernel: LinearKernel, output: Buffer, *inputs: Buffer) -> np.ndarray:
    """Compile a kernel, launch it once, and return what is in the output then."""
    (program,) = load(device, kernel)
    device.queue.launch(program, (output, *inputs))
    device.synchronize()
    return output.to_numpy()


def numbers(random: np.random.Generator, dtype: DType, count: int) -> np.ndarray:
    """Numbers of a dtype, small enough that sums and products of two are exact."""
    host = dtypes.to_numpy(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, count).astype(host)
    low = 0 if dtype.kind == "u" else -8
    return random.integers(low, 9, count).astype(host)
