"""Times of stages and kernels."""

from __future__ import annotations

import threading
import time

import pytest

from dovetile import Tensor, environment, jit, profiling
from dovetile.errors import DeviceError
from dovetile.plugins import default_device_name


def test_nothing_is_measured_unless_somebody_asks() -> None:
    assert profiling.current() is None
    assert profiling.stage("one") is profiling.stage("another")


def test_a_stage_is_without_the_stages_inside() -> None:
    with profiling.record() as profile:
        with profiling.stage("outer"):
            for _ in range(2):
                with profiling.stage("inner"):
                    time.sleep(0.02)
    outer, inner = profile.stages["outer", False], profile.stages["inner", False]
    assert (outer.calls, inner.calls) == (1, 2)
    assert 0.04 <= inner.seconds <= profile.elapsed - outer.seconds
    assert outer.seconds < inner.seconds
    assert inner.processor < inner.seconds  # it slept


def test_other_threads_are_told_apart() -> None:
    def work() -> None:
        with profiling.stage("work"):
            pass

    with profiling.record() as profile, profiling.stage("outer"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        work()
    assert {key: entry.calls for key, entry in profile.stages.items()} == {
        ("outer", False): 1,
        ("work", False): 1,
        ("work", True): 1,
    }


def test_an_error_ends_the_stage_and_the_recording() -> None:
    with pytest.raises(KeyError), profiling.record() as profile:
        with profiling.stage("outer"), profiling.stage("inner"):
            raise KeyError
    assert profiling.current() is None
    assert set(profile.stages) == {("outer", False), ("inner", False)}
    with profiling.record() as again, profiling.stage("next"):
        pass
    assert set(again.stages) == {("next", False)}


def test_a_step_is_measured_from_graph_to_replay(tmp_path) -> None:
    try:
        default_device_name()
    except DeviceError:
        pytest.skip("no device is installed")

    @jit
    def step(x: Tensor) -> Tensor:
        return (x * 3 + 1).sum()

    with environment.context(DOVETILE_CACHE_DIR=str(tmp_path)), profiling.record() as profile:
        for number in range(4):  # run, captured, replayed twice
            step(Tensor([float(number)] * 777)).item()
    calls = {name: entry.calls for (name, _), entry in profile.stages.items()}
    assert calls["tensor"] == 2 and calls["replay"] == 2
    for stage in ("simplify", "place", "kernels", "canonical", "optimize", "lower", "render"):
        assert calls[stage] == 1, stage
    (kernel,) = (k for name, k in profile.kernels.items() if name != "copy")
    assert kernel.launches == 4 and kernel.seconds > 0
    assert (kernel.operations, kernel.nbytes) == (3 * 777, 778 * 4)
    assert sum(entry.seconds for (_, apart), entry in profile.stages.items() if not apart) <= (
        profile.elapsed
    )
