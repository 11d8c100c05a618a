"""Dependent reductions that share a loop, on units of several threads."""

from __future__ import annotations

from dataclasses import replace

import loop_kernels as kernels
import numpy as np
import pytest
from group_units import target, unit
from loop_kernels import GROUPS

from dovetile import dtypes
from dovetile.ir.ops import AddressSpace, Op
from dovetile.lower import lower
from dovetile.optimize.analysis import Analysis
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.closed_units import closed_unit_opts
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.online_registers import OnlineRegisters
from dovetile.optimize.opts import OptError, Stage, apply_opts
from dovetile.optimize.use_group_unit import FollowGroupUnit

UNITS = target("stores")


def attention(queries: int, keys: int, width: int, **options) -> kernels.Case:
    return kernels.attention(
        queries, keys, (64, width), heads=1, dtype=dtypes.bfloat16, capabilities=UNITS, **options
    )


def compare(case: kernels.Case, opts: list, capabilities=UNITS) -> None:
    """Weights are rounded to 8 bits, as a value of this type is wherever it is held."""
    results = case.results(apply_opts(case.kernel, opts), capabilities)
    for slot, expected in case.expected.items():
        found = results[slot].astype(np.float64)
        np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.01, err_msg=case.name)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [3, 5, 12])
def test_the_loop_without_units(size: int, causal: bool):
    """12 = 4 * 3; of blocks of 5 the last one overlaps; 12 is the whole axis."""
    case = kernels.attention(6, 12, (2, 2), heads=1, causal=causal)
    opts = [OnlineRegisters((1,), size)]
    case.run(opts)
    assert prove(apply_opts(case.kernel, opts)) is None


def test_only_what_a_thread_holds_is_in_registers():
    case = attention(64, 256, 64)
    program = lower(apply_opts(case.kernel, heuristic(case.kernel, UNITS)), UNITS)
    held = [n.arg.size for n in program.uops if n.op is Op.BUFFER]
    spaces = [n.arg.space for n in program.uops if n.op is Op.BUFFER]
    registers = sorted(n for n, space in zip(held, spaces) if space is AddressSpace.REG)
    # Two rows of maxima and of sums; of sums of values 64 * 64 elements for 128 threads.
    assert registers[:3] == [2, 2, 32]


@pytest.mark.parametrize("copies", ["stores", "boxes"])
@pytest.mark.parametrize(
    "case",
    [
        attention(128, 128, 128), attention(72, 200, 64, causal=True),
        attention(64, 128, 64, transposed=True), attention(64, 640, 64),
    ],
    ids=lambda c: c.name,
)  # fmt: skip
def test_heuristics(case: kernels.Case, copies: str):
    capabilities = target(copies)
    opts = heuristic(case.kernel, capabilities)
    assert any(isinstance(o, FollowGroupUnit) for o in opts)
    assert prove(apply_opts(case.kernel, opts)) is None
    compare(case, opts, capabilities)


@pytest.mark.parametrize("width, kib, places", [(64, 200, 2), (64, 120, 3), (128, 200, 3)])
def test_places_leave_room_for_another_workgroup(width: int, kib: int, places: int):
    """Of 64 columns one takes 105 KiB with three places, 73 with two; of 128 one alone fits."""
    case = attention(128, 128, width)
    opts = heuristic(case.kernel, replace(UNITS, local_bytes=kib << 10))
    assert {o.depth for o in opts if isinstance(o, Stage)} == {1, places}
    assert any(o.unit.awaited == (places == 2) for o in opts if isinstance(o, FollowGroupUnit))


def test_blocks_that_no_row_sees_are_skipped():
    case = attention(256, 256, 64, causal=True)
    program = lower(apply_opts(case.kernel, heuristic(case.kernel, UNITS)), UNITS)
    lengths = [n.src[0].bounds for n in program.uops if n.op is Op.RANGE and not n.src[0].is_const]
    # Of two blocks of keys the first rows see one; masks are looked at in one round or none.
    assert sorted(lengths) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear_in_the_length(causal: bool):
    """One kernel (`attention` asserts it) that touches its inputs and its result alone; what a
    workgroup holds in LOCAL memory and registers is the same for every length."""
    held = []
    for length in (512, 2048):
        case = attention(length, length, 64, causal=causal)
        program = lower(apply_opts(case.kernel, heuristic(case.kernel, UNITS)), UNITS)
        assert [b.arg.size for b in program.buffers] == [length * 64] * 4
        registers = sorted(
            n.arg.size
            for n in program.uops
            if n.op is Op.BUFFER and n.arg.space is AddressSpace.REG
        )
        held.append((program.local_bytes, program.threads, registers))
    assert held[0] == held[1]


def test_other_types_and_targets_do_not_fit():
    case = kernels.attention(64, 128, (64, 64), heads=1)
    assert closed_unit_opts(Analysis(case.kernel), UNITS) is None
    assert closed_unit_opts(Analysis(attention(64, 128, 64).kernel), GROUPS) is None


def test_what_cannot_be_applied():
    case = attention(64, 128, 64)
    for opt, reason in (
        (OnlineRegisters((1,), 300), "blocks of 300"),
        (FollowGroupUnit(unit(64), 1), "no unit"),
    ):  # fmt: skip
        with pytest.raises(OptError, match=reason):
            opt.apply(case.kernel)
