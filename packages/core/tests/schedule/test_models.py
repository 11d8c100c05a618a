"""Kernels and bytes of a step of known models: a regression in what is fused or held shows here.

The bytes are those of the distinct memory that each kernel touches, summed over the kernels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("dovetile_cpu")

from graphs import CAPABILITIES, plan_kernels

from dovetile import Tensor
from dovetile.schedule.debug import cost
from dovetile.schedule.loops import canonical

# What is computed again rather than held depends on these.
TARGET = dataclasses.replace(
    CAPABILITIES, bytes_per_second=16e9, operations_per_second=320e9, launch_seconds=3e-6
)


def of(*shape: int, gradient: bool = False) -> Tensor:
    return Tensor(np.zeros(shape, np.float32), requires_grad=gradient)


def trained(value: Tensor, *targets: Tensor) -> list[Tensor]:
    """The sum of a value, and its gradients."""
    loss = (value * of(*value.shape)).sum()
    return [loss, *loss.gradient(*targets)]


def optimizer_step() -> list[Tensor]:
    """Adam on matrices of two shapes: reads 4 and writes 3 of each size."""
    written = []
    for shape in ((64, 48), (64, 48), (32, 16)):
        g, m, v, p = (of(*shape) for _ in range(4))
        m.assign(m * 0.9 + g * 0.1)
        v.assign(v * 0.99 + g * g * 0.01)
        p.assign(p - m / (v.sqrt() + 1e-8) * 0.01)
        written += [m, v, p]
    return written


X = 32 * 32 * 16 * 16  # elements of the images of a ResNet block


def residual_block(train: bool) -> list[Tensor]:
    x = of(32, 32, 16, 16, gradient=True)
    weights = [of(32, 32, 3, 3, gradient=True) for _ in range(2)]
    scales = [of(32, gradient=True) for _ in range(4)]
    hidden = x.conv2d(weights[0], padding=1)
    hidden = hidden.batch_norm(None, None, *scales[:2], training=True).relu()
    hidden = hidden.conv2d(weights[1], padding=1)
    hidden = hidden.batch_norm(None, None, *scales[2:], training=True)
    result = (hidden + x).relu()
    return trained(result, x, *weights, *scales) if train else [result]


T = 256 * 64  # elements of the tokens of a feed-forward block


def feed_forward_block(train: bool) -> list[Tensor]:
    x = of(256, 64, gradient=True)
    scale, shift = of(64, gradient=True), of(64, gradient=True)
    up, down = of(256, 64, gradient=True), of(64, 256, gradient=True)
    result = x + x.layer_norm((64,), scale, shift).linear(up).gelu().linear(down)
    return trained(result, x, scale, shift, up, down) if train else [result]


# name: (graph, kernels, bytes at most)
MODELS: dict[str, tuple[Callable[[], list[Tensor]], int, float]] = {
    "optimizer step": (optimizer_step, 3, 7 * 4 * (2 * 64 * 48 + 32 * 16)),
    "ResNet block": (lambda: residual_block(False), 7, 15.2 * 4 * X),
    "ResNet block, training": (lambda: residual_block(True), 19, 45.9 * 4 * X),
    "feed-forward block": (lambda: feed_forward_block(False), 4, 23.1 * 4 * T),
    "feed-forward block, training": (lambda: feed_forward_block(True), 13, 69.2 * 4 * T),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_kernels_and_bytes(name: str) -> None:
    make, count, most = MODELS[name]
    kernels = plan_kernels(*(t.uop for t in make()), capabilities=TARGET)
    moved = sum(cost(canonical(k.ast)[0])[1] for k in kernels if k.ast is not None)
    assert (len(kernels), moved <= most) == (count, True), moved
