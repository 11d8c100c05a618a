"""Which threads reduce a row, and which rows share a workgroup."""

from __future__ import annotations

from dataclasses import replace

import pytest
from loop_kernels import GROUPS, normalized

from dovetile.lower import lower
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import apply_opts

TARGET = replace(GROUPS, warp=32, group_threads=1024)


@pytest.mark.parametrize(
    ("columns", "threads", "groups"),
    [
        (128, 256, 4),  # a row for 16 threads, 16 rows in a workgroup
        (256, 256, 8),  # a warp
        (512, 64, 64),  # two warps, which meet at a barrier
        (2048, 256, 64),
    ],
)
def test_rows_of_several_warps_have_workgroups_of_their_own(
    columns: int, threads: int, groups: int
) -> None:
    example = normalized(64, columns)
    kernel = apply_opts(example.kernel, heuristic(example.kernel, TARGET))
    program = lower(kernel, TARGET)
    assert (program.threads, program.parts) == (threads, groups)
    if columns < 2048:
        example.compare(example.results(kernel, TARGET))
