"""What scheduling costs grows no faster than the graph: counted, not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

from dovetile import Tensor, environment
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


def test_a_step_costs_its_layers() -> None:
    try:
        default_device_name()
    except DeviceError:
        pytest.skip("no device is installed")
    with environment.context(DOVETILE_CACHE_BYTES=0):
        training_step(33)()  # from now on all kernels are known: what is left is scheduling
        small, middle, large = (lines_run(training_step(n)) for n in (8, 16, 32))
    # Sixteen layers more cost twice as much as eight more.
    assert middle - small > 1000
    assert large - middle <= 2.05 * (middle - small)
