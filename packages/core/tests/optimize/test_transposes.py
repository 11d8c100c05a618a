"""Kernels that load along one axis and store along another, on workgroups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from loop_kernels import GROUPS, Case, case, elementwise, tensor, transpose

from dovetile import dtypes
from dovetile.ir.ops import AddressSpace, Op
from dovetile.lower import LinearKernel, lower
from dovetile.lower.linear import buffer_of
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import OptError, apply_opts
from dovetile.optimize.stage_load import StageLoad

TARGET = replace(GROUPS, warp=32, group_threads=256, local_bytes=48 << 10)


def run(example: Case) -> LinearKernel:
    """The program, after it gave the right results."""
    kernel = apply_opts(example.kernel, heuristic(example.kernel, TARGET))
    assert prove(kernel) is None
    example.compare(example.results(kernel, TARGET))
    return lower(kernel, TARGET)


def accesses(program: LinearKernel, space: AddressSpace) -> list[int]:
    """How many lanes each access to this memory has."""
    nodes = [n for n in program.uops if n.op in (Op.LOAD, Op.STORE)]
    return [
        (n.src[1] if n.op is Op.STORE else n).dtype.lanes
        for n in nodes if buffer_of(n.src[0]).arg.space is space
    ]  # fmt: skip


def test_both_sides_are_whole_vectors():
    program = run(transpose(128, 64))
    assert (program.parts, program.threads) == (2, 256)
    lanes = TARGET.vector_bytes // 4
    assert set(accesses(program, AddressSpace.GLOBAL)) == {lanes}
    # Rows of an odd number of elements, so that those of a column are in different banks.
    assert program.local_bytes == 64 * 65 * 4


@pytest.mark.parametrize("shape", [(100, 68), (65, 67), (9, 300), (16, 8)])
def test_tiles_that_do_not_fit(shape: tuple[int, int]):
    assert accesses(run(transpose(*shape)), AddressSpace.LOCAL)


def test_other_axes_and_loads_as_they_are_stored():
    a, b = tensor(3, 20, 36), tensor(3, 36, 20)
    value = (a.permute((0, 2, 1)) * b).cast(dtypes.float64)
    example = case("both", value, [a, b], lambda a, b: (a.swapaxes(1, 2) * b).astype(np.float64))
    program = run(example)
    # Of `a` alone.
    assert program.local_bytes == 32 * 33 * 4 or program.local_bytes == 16 * 33 * 4


def test_what_lies_as_it_is_stored_is_not_held():
    assert run(elementwise(64, 64)).local_bytes == 0
    assert run(transpose(4, 64)).local_bytes == 0  # runs of 4 elements are not worth it


def test_what_is_wrong():
    kernel = transpose(8, 16).kernel
    with pytest.raises(OptError, match="load 1; the kernel has 1"):
        StageLoad(1, (0,)).apply(kernel)
    with pytest.raises(OptError, match=r"does not depend on axes \[7\]"):
        StageLoad(0, (7,)).apply(kernel)
