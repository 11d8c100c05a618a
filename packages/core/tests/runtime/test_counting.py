"""The totals of what was run and compiled."""

from __future__ import annotations

import pytest

from dovetile import Tensor, counters, jit
from dovetile.errors import DeviceError
from dovetile.plugins import default_device_name
from dovetile.runtime.counting import Counters


def test_differences_and_sums() -> None:
    one = Counters(1, 2, 3, 4, 5)
    one.add(Counters(10, 20, 30, 40, 50))
    assert one == Counters(11, 22, 33, 44, 55)
    assert one - Counters(1, 2, 3, 4, 5) == Counters(10, 20, 30, 40, 50)


@pytest.fixture
def device() -> str:
    try:
        return default_device_name()
    except DeviceError:
        pytest.skip("no device is installed")


def test_runs_and_replays_count(device: str) -> None:
    @jit
    def step(x: Tensor) -> Tensor:
        return (x * 2 + 1).sum()

    counted = []
    for call in range(4):  # plain, captured, replayed twice
        before = counters()
        step(Tensor([float(call)] * 100)).item()
        counted.append(counters() - before)
    for work in counted:
        assert work.kernels == 1
        assert work.operations == 300
        assert work.nbytes == 101 * 4
    assert counted[2].compiled == counted[2].from_cache == 0
