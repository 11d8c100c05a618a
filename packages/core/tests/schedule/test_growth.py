"""What scheduling costs grows no faster than the graph: counted, not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

from dovetile import Tensor, environment, jit
from dovetile.errors import DeviceError
from dovetile.plugins import default_device_name

WIDTH = 16


def lines_run(call: Callable[[], None]) -> int:
    """How many lines of Python a call runs, each turn of a loop counted."""
    count = 0

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return on_line

    before = sys.gettrace()
    sys.settrace(on_line)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def training_step(layers: int) -> Callable[[], None]:
    """One step of a network with residual connections: forward, backward and update."""
    generator = np.random.default_rng(0)

    def parameter(*shape: int) -> Tensor:
        return Tensor(generator.random(shape, dtype=np.float32), requires_grad=True)

    weights = [parameter(WIDTH, WIDTH) for _ in range(layers)]
    biases = [parameter(WIDTH) for _ in range(layers)]
    inputs = Tensor(generator.random((128, WIDTH), dtype=np.float32))

    def step() -> None:
        x = inputs
        for weight, bias in zip(weights, biases):
            x = x + (x.layer_norm((WIDTH,), bias, bias) @ weight).relu()
        x.square().mean().backward()
        for tensor in (*weights, *biases):
            assert tensor.grad is not None
            tensor.assign(tensor.detach() - 0.1 * tensor.grad)
        Tensor.realize(*weights, *biases)

    return step


@pytest.fixture
def device() -> str:
    try:
        return default_device_name()
    except DeviceError:
        pytest.skip("no device is installed")


def test_a_step_costs_its_layers(device: str) -> None:
    with environment.context(DOVETILE_CACHE_BYTES=0):
        training_step(33)()  # from now on all kernels are known: what is left is scheduling
        small, middle, large = (lines_run(training_step(n)) for n in (8, 16, 32))
    # Sixteen layers more cost twice as much as eight more.
    assert middle - small > 1000
    assert large - middle <= 2.05 * (middle - small)


def calls_made(call: Callable[[], object]) -> int:
    """How many Python functions a call runs."""
    count = 0

    def on_event(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


def test_a_warm_eager_operation_runs_little_python(device: str) -> None:
    """Some tens of calls: a table, a lock or an import more on the way shows here."""
    a, b = Tensor(np.ones(16, np.float32)), Tensor(np.ones(16, np.float32))

    def add() -> None:
        (a + b).realize()

    with environment.context(CHECK=0):
        for _ in range(3):
            add()
        assert calls_made(add) <= 60


def test_a_replay_with_the_same_arguments_runs_little_python(device: str) -> None:
    x = Tensor(np.ones(16, np.float32))

    @jit
    def chain(x: Tensor) -> Tensor:
        for _ in range(50):
            x = (x * 0.5).realize()
        return x

    counts = []
    for _ in range(6):
        counts.append(calls_made(lambda: chain(x)))
    (step,) = chain.captures
    assert step.kernels == 50
    assert max(counts[-2:]) <= 55, "and none for each kernel"
