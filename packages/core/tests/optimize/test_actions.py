"""Whatever the search may try is refused, or computes what the kernel computes."""

from __future__ import annotations

import loop_kernels as kernels
import pytest
from loop_kernels import WIDE, Case

from dovetile.optimize.actions import extensions, variations
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import Bind, GroupReduce, Opt, OptError, Order, Split, Stage, apply_opts


def legal(case: Case, lists: list[tuple[Opt, ...]]) -> list[tuple[Opt, ...]]:
    """Those of the lists that may be applied; all of these are run and compared."""
    found = []
    for opts in dict.fromkeys(lists):
        try:
            kernel = apply_opts(case.kernel, opts)
        except OptError:
            continue
        assert prove(kernel) is None, opts
        case.compare(case.results(kernel))
        found.append(opts)
    return found


@pytest.mark.parametrize(
    "case",
    [
        kernels.matmul(4, 9, 8), kernels.elementwise(3, 17), kernels.row_sums(3, 37),
        kernels.total(40), kernels.accumulated(20), kernels.padded(9, 2, 9),
        kernels.normalized(2, 16),
    ],
    ids=lambda case: case.name,
)  # fmt: skip
def test_extensions_and_variations_are_right(case: Case):
    first = legal(case, list(extensions(case.kernel, WIDE)))
    assert first
    start = heuristic(case.kernel, WIDE)
    varied = legal(case, list(variations(start)))
    assert bool(varied) == bool(start)


def test_extensions_of_extensions_are_right():
    case = kernels.matmul(3, 4, 8)
    first = legal(case, list(extensions(case.kernel, WIDE)))
    second = [
        (*opts, *more)
        for opts in first[::3]
        for more in list(extensions(apply_opts(case.kernel, opts), WIDE))[::4]
    ]
    assert len(legal(case, second)) > 10


def test_extensions_reach_everything_that_the_heuristics_use():
    tried = {type(o) for more in extensions(kernels.matmul(64, 64, 64).kernel, WIDE) for o in more}
    assert tried >= {Split, Bind, Order, Stage, GroupReduce}
    kinds = {
        o.kind.name
        for more in extensions(kernels.matmul(64, 64, 64).kernel, WIDE)
        for o in more
        if isinstance(o, Bind)
    }
    assert kinds == {"UNROLL", "VECTOR", "THREAD"}


def test_scalar_machines_get_no_lanes_and_no_threads():
    found = extensions(kernels.matmul(8, 8, 8).kernel, kernels.SCALAR)
    kinds = {o.kind.name for more in found for o in more if isinstance(o, Bind)}
    assert kinds == {"UNROLL"}
