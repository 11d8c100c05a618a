"""What a captured step computes of weights alone is computed again only when they change."""

from __future__ import annotations

import numpy as np
import pytest

from dovetile import Tensor, counters, jit
from dovetile.runtime import get_device

generator = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return generator.standard_normal(shape).astype(np.float32)


@pytest.fixture
def weights() -> list[Tensor]:
    return [Tensor(numbers(32, 3, 3, 3)).realize(), Tensor(numbers(48, 32, 1, 1)).realize()]


def network(x: Tensor, weights: list[Tensor]) -> Tensor:
    for w in weights:
        x = x.conv2d(w)
    return x.mean((2, 3))


def launches(function, *arguments) -> int:
    before = counters()
    function(*arguments).numpy()
    return (counters() - before).kernels


def test_weights_are_laid_out_once(weights: list[Tensor]):
    if "THREAD" not in get_device().capabilities.parallel_axes:
        pytest.skip("convolutions read weights as they lie on this device")
    x = Tensor(numbers(2, 3, 9, 9)).realize()
    step = jit(lambda x: network(x, weights))
    runs = [launches(step, x) for _ in range(5)]
    assert runs[-1] == runs[-2] == runs[0] - 1
    assert np.array_equal(step(x).numpy(), network(x, weights).numpy())


@pytest.mark.parametrize("through_alias", [False, True])
def test_and_again_when_they_are_assigned(weights: list[Tensor], through_alias: bool):
    x = Tensor(numbers(2, 3, 9, 9)).realize()
    step = jit(lambda x: network(x, weights))
    for _ in range(3):
        before = step(x).numpy()
    target = weights[0].reshape(-1) if through_alias else weights[0]
    target.assign(Tensor(numbers(*target.shape))).realize()
    after = step(x).numpy()
    assert not np.allclose(before, after)
    assert np.array_equal(after, network(x, weights).numpy())
    assert np.array_equal(step(x).numpy(), after)


def test_and_again_when_another_step_writes_them(weights: list[Tensor]):
    x = Tensor(numbers(2, 3, 9, 9)).realize()
    infer = jit(lambda x: network(x, weights))

    @jit
    def train(x: Tensor) -> Tensor:
        loss = x.sum()
        for w in weights:
            w.assign(w * 0.9)
        return loss

    for _ in range(4):
        infer(x)
        train(x)
    for _ in range(4):
        train(x)
        first = infer(x).numpy()
        assert np.array_equal(first, network(x, weights).numpy())
    for _ in range(3):
        before = infer(x).numpy()
        train(x)
        train(x)
        after = infer(x).numpy()
        np.testing.assert_allclose(after, before * 0.9**4, rtol=1e-4, atol=1e-5)


def test_weights_that_the_step_writes_or_gets_are_laid_out_every_time(weights: list[Tensor]):
    x = Tensor(numbers(2, 3, 9, 9)).realize()

    @jit
    def train(x: Tensor) -> Tensor:
        result = network(x, weights).sum()
        weights[0].assign(weights[0] * 0.5)
        return result

    expected = [float(network(x, [weights[0] * 0.5**n, weights[1]]).sum().item()) for n in range(5)]
    found = [float(train(x).item()) for _ in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)

    given = jit(lambda x, a, b: network(x, [a, b]))
    for _ in range(4):
        a, b = Tensor(numbers(32, 3, 3, 3)), Tensor(numbers(48, 32, 1, 1))
        result = given(x, a, b).numpy()
        np.testing.assert_allclose(result, network(x, [a, b]).numpy(), rtol=1e-5, atol=1e-5)
