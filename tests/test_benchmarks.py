"""The benchmarks' own arithmetic: targets, limits, and the page made of figures."""

from __future__ import annotations

import itertools
from unittest.mock import MagicMock

import numpy
import pytest

pytest.importorskip("dovetile_cpu")

import measure
import report
from cases import dovetile_cases, numpy_cases, reference_cases
from measure import Figures, Protocol
from peak import Limit
from rows import ROWS, Target


def test_every_row_is_a_case_of_ours_and_has_a_reference() -> None:
    for row in ROWS.values():
        assert callable(getattr(dovetile_cases, row.case)), row.name
        assert callable(getattr(reference_cases, row.case)), row.name


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target(of_peer=1.0), False),
        (Target(of_peer=0.5), True),
        (Target(of_peer=1.5, peer="torch"), True),
        (Target(of_peer=2.5, peer="torch"), False),
        (Target(of_peer=9.0, peer="absent"), True),
        (Target(of_limit=0.5), True),
        (Target(of_limit=0.6), False),
        (Target(seconds=2.0), True),
        (Target(seconds=1.9), False),
        (Target(rate=5.0), True),
        (Target(rate=5.1), False),
    ],
)
def test_targets(target: Target, met: bool) -> None:
    seconds = {"dovetile": 2.0, "torch": 4.0, "numpy": 1.0}
    assert target.met(seconds, limit=10.0, work=10.0) is met


@pytest.mark.parametrize(("seconds", "rounds"), [(0.5, 6), (5.0, 3)])
def test_slow_calls_take_half_the_turns(
    monkeypatch: pytest.MonkeyPatch, seconds: float, rounds: int
) -> None:
    clock = itertools.count(0.0, seconds)
    process = MagicMock()
    process.__enter__.return_value = process
    process.answer.return_value = {"values": [1.0]}
    process.turn.return_value = {"seconds": [seconds], "bytes": 1}
    monkeypatch.setattr(measure, "Process", lambda *_: process)
    monkeypatch.setattr(measure.time, "monotonic", lambda: next(clock))
    protocol = Protocol()
    found = measure.measure(ROWS["mnist"], ["dovetile"], protocol)
    protocol.caches.cleanup()
    assert found.seconds == {"dovetile": seconds}
    assert process.turn.call_count == 1 + rounds  # one warms up


def test_all_contenders_of_a_row_compute_what_the_reference_does() -> None:
    size = {"count": 1000}
    expected, *found = (
        case.values(case.call())
        for case in (
            reference_cases.chain(None, **size),
            numpy_cases.chain(None, **size),
            dovetile_cases.chain(dovetile_cases.MODES["captured"], **size),
        )
    )
    assert numpy.abs(expected).max() > 0.5
    for values in found:
        numpy.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("reads", "writes"), [(1, 0), (1, 1), (3, 1)])
def test_limits_do_the_work_that_they_count(reads: int, writes: int) -> None:
    nbytes = 1 << 20
    limit = Limit("memory", nbytes, reads, writes)
    assert abs(limit.amount - nbytes) < 0.01 * nbytes
    for arrays in limit._memory:
        for number in range(reads):
            arrays[number].view(numpy.float32)[:] = number + 1.0
    limit.run()
    elements = limit._count
    for arrays in limit._memory:
        written = arrays[3].view(numpy.float32)
        total = sum(range(1, reads + 1))
        if writes:
            assert (written[:elements] == total).all()
        else:
            assert written.sum() == pytest.approx(elements)


def test_the_page_tells_each_row_with_its_best_peer() -> None:
    found = {
        "chain": Figures({"dovetile": 0.5, "torch": 1.0, "jax": 0.8}, limit=4.0),
        "gpt": Figures({"dovetile": 3.0}, nbytes={"dovetile": 2 << 30, "torch": 1 << 30},
                       absent={"torch": "wrong"}),
    }  # fmt: skip
    lines = report.page(found, {"read, GB/s": 12.0}).splitlines()
    chain = next(line for line in lines if line.startswith("| (a * b + c)"))
    assert "| 2.15 | 1.34 | jax | 1.60 | 54% | 1 of the best | yes |" in chain
    memory = next(line for line in lines if line.startswith("| GPT training step, peak memory"))
    assert "| MiB | 2048 | 1024 | torch | 0.50 |  | 1 of torch | no |" in memory
    assert "* GPT training step, torch: wrong" in lines
