"""Contractions on units that several threads use together: by hand and by the heuristics."""

from __future__ import annotations

import pytest
from group_units import target
from loop_kernels import cast_matmul

from dovetile.ir.ops import Op
from dovetile.lower import lower
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import apply_opts


@pytest.mark.parametrize("copies", ["", "stores", "boxes"])
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_every_layout(layout: str, copies: str):
    case, capabilities = cast_matmul(64, 192, 64, layout), target(copies)
    opts = heuristic(case.kernel, capabilities)
    kernel = apply_opts(case.kernel, opts)
    assert prove(kernel) is None
    program = lower(kernel, capabilities)
    assert program.threads == 128
    assert any(n.op is Op.MATMUL for n in program.uops)
    assert any(n.op is Op.STORE and n.arg == "async" for n in program.uops) == (copies == "stores")
    assert any(n.op is Op.FETCH for n in program.uops) == (copies == "boxes")
    case.compare(case.results(kernel, capabilities))


@pytest.mark.parametrize("copies", ["stores", "boxes"])
@pytest.mark.parametrize("layout", ["nt", "tn"])
def test_rows_above_each_other_and_blocks_that_overlap(layout: str, copies: str):
    case, capabilities = cast_matmul(136, 128, 72, layout), target(copies)
    kernel = apply_opts(case.kernel, heuristic(case.kernel, capabilities))
    assert lower(kernel, capabilities).threads == 256
    case.compare(case.results(kernel, capabilities))
