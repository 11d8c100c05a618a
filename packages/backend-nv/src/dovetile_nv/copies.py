"""Copies within a GPU's memory as kernels: its copy engine reaches a fraction of the bandwidth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.ir import Op, UOp
from dovetile.lower.linear import LinearKernel
from dovetile.lower.linearize import linearize
from dovetile.runtime import compile_programs

if TYPE_CHECKING:
    from dovetile.runtime import Device, Program

_THREADS = 256
_VECTOR = 16  # bytes that a thread copies
_BLOCK = _THREADS * _VECTOR
_MOST_BLOCKS = 1 << 18  # a gibibyte: indices then have 32 bits


@dataclass(frozen=True)
class Part:
    """A part of a copy: a launch of `program`, or the copy engine's where there is none."""

    program: Program | None
    groups: int
    threads: int
    offset: int
    nbytes: int


class CopyKernels:
    """The kernels of a device, made at the first copy."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._programs: list[Program] = []

    def parts(self, destination: int, source: int, nbytes: int) -> list[Part]:
        """How to copy `nbytes` between two addresses of the GPU's memory."""
        parts: list[Part] = []
        offset = 0
        if (destination | source) % _VECTOR == 0 and nbytes >= _VECTOR:
            if not self._programs:
                kernels = [_kernel("copy_blocks", _THREADS), _kernel("copy_vectors", 1)]
                render = self._device.renderer.render
                sources = [(kernel.name, render(kernel)) for kernel in kernels]
                self._programs = compile_programs(self._device, sources)
            for program, threads in zip(self._programs, (_THREADS, 1)):
                size = threads * _VECTOR
                while nbytes - offset >= size:
                    groups = min((nbytes - offset) // size, _MOST_BLOCKS)
                    parts.append(Part(program, groups, threads, offset, groups * size))
                    offset += groups * size
        if offset < nbytes:
            parts.append(Part(None, 0, 0, offset, nbytes - offset))
        return parts


def _kernel(name: str, threads: int) -> LinearKernel:
    """Each thread copies one vector of 16 bytes."""
    lanes = _VECTOR // 4
    position = UOp(Op.SPECIAL, dtypes.index, (UOp.const(_MOST_BLOCKS),), "group")
    if threads > 1:
        thread = UOp(Op.SPECIAL, dtypes.index, (UOp.const(threads),), "local")
        position = position * threads + thread
    count = _MOST_BLOCKS * threads * lanes
    out, source = (UOp.buffer(count, dtypes.uint32, slot=slot) for slot in range(2))
    value = source.index(position * lanes).load(dtype=dtypes.uint32.vec(lanes))
    effect = out.index(position * lanes).store(value)
    return LinearKernel.of(name, linearize(UOp.sink(effect)))
