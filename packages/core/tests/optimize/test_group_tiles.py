"""Blocks of products on workgroups, by plain multiply-adds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from loop_kernels import GROUPS, matmul

from dovetile.ir.ops import AddressSpace, Op
from dovetile.lower import lower
from dovetile.lower.linear import buffer_of
from dovetile.optimize import group_tiles
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import Stage, apply_opts

TARGET = replace(
    GROUPS, threads=4, warp=32, group_threads=256, local_bytes=200 << 10, asynchronous_copies=True
)


@pytest.mark.parametrize(("m", "k", "n"), [(16, 20, 16), (17, 9, 18)])
@pytest.mark.parametrize("copies", [False, True])
def test_blocks_are_copied_ahead_where_the_target_can(
    m: int, k: int, n: int, copies: bool, monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.setattr(group_tiles, "_LEAST_WORK", 1)  # what the interpreter can do in no time
    capabilities = replace(TARGET, asynchronous_copies=copies)
    case = matmul(m, k, n)
    opts = heuristic(case.kernel, capabilities)
    assert {o.depth > 1 for o in opts if isinstance(o, Stage)} == {copies}
    kernel = apply_opts(case.kernel, opts)
    assert prove(kernel) is None
    program = lower(kernel, capabilities)
    assert any(node.op is Op.STORE and node.arg == "async" for node in program.uops) == copies
    case.compare(case.results(kernel, capabilities))


def test_lanes_run_along_what_is_stored():
    case = matmul(256, 256, 256)
    opts = heuristic(case.kernel, TARGET)
    program = lower(apply_opts(case.kernel, opts), TARGET)
    stores = [n for n in program.uops if n.op is Op.STORE and buffer_of(n.src[0]).arg.slot == 0]
    written = [n for n in stores if buffer_of(n.src[0]).arg.space is AddressSpace.GLOBAL]
    assert {n.src[1].dtype.lanes for n in written} == {TARGET.vector_bytes // 4}
