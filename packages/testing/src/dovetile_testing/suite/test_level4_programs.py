"""Level 4: whole programs - gradients, writes in place, `jit`, several devices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import dovetile
from dovetile import Tensor, manual_seed
from dovetile.plugins import DeviceSpec
from dovetile.plugins.selection import Request, manager
from dovetile.runtime import Device, counters, get_device

Requires = Callable[[bool, str], None]


def normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def test_a_chain_of_everything(random: np.random.Generator) -> None:
    x, w = normal(random, 6, 8), normal(random, 8, 5)
    result = ((Tensor(x) @ Tensor(w)).relu() + 1).log().sum(0).softmax(-1)
    hidden = np.log(np.maximum(x @ w, 0) + 1).sum(0)
    expected = np.exp(hidden - hidden.max())
    np.testing.assert_allclose(result.numpy(), expected / expected.sum(), rtol=1e-5)


def test_gradients(random: np.random.Generator) -> None:
    x, w = normal(random, 6, 8), normal(random, 8, 5)
    weight = Tensor(w, requires_grad=True)
    (Tensor(x) @ weight).tanh().square().sum().backward()
    y = np.tanh(x.astype(np.float64) @ w)
    expected = x.T @ (2 * y * (1 - y * y))
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), expected, rtol=2e-5, atol=1e-5)


def test_writing_in_place(random: np.random.Generator) -> None:
    x = normal(random, 4, 6)
    tensor = Tensor(x)
    before = tensor * 2
    tensor[1:3, ::2] = 7.0
    after = tensor + 1
    np.testing.assert_array_equal(before.numpy(), x * 2)
    x[1:3, ::2] = 7
    np.testing.assert_array_equal(after.numpy(), x + 1)
    tensor.assign(tensor.flip(0)).realize()
    np.testing.assert_array_equal(tensor.numpy(), x[::-1])


def test_training_converges(random: np.random.Generator) -> None:
    x, truth = normal(random, 64, 3), np.array([[1.0], [-2.0], [0.5]], np.float32)
    inputs, targets = Tensor(x), Tensor(x @ truth)
    weight = Tensor(np.zeros((3, 1), np.float32), requires_grad=True)
    for _ in range(60):
        weight.grad = None
        (inputs @ weight - targets).square().mean().backward()
        assert weight.grad is not None
        weight.assign(weight.detach() - weight.grad * 0.2).realize()
    np.testing.assert_allclose(weight.numpy(), truth, atol=1e-3)


def test_a_captured_step_replays(random: np.random.Generator) -> None:
    state = Tensor(np.zeros((4, 3), np.float32)).realize()

    @dovetile.jit
    def step(x: Tensor) -> Tensor:
        state.assign(state + x)
        return (state * 2).sum(0).realize()

    total = np.zeros((4, 3), np.float32)
    for _ in range(6):
        x = normal(random, 4, 3)
        total += x
        np.testing.assert_allclose(step(Tensor(x).realize()).numpy(), (total * 2).sum(0), rtol=1e-4)
    np.testing.assert_allclose(state.numpy(), total, rtol=1e-5, atol=1e-6)


def test_the_same_kernel_is_compiled_once(random: np.random.Generator) -> None:
    def compute() -> np.ndarray:
        x = Tensor(normal(random, 13, 11))
        return (x.exp() + 3).sum(1).numpy()

    compute()
    before = (counters().compiled, counters().from_cache)
    compute()
    assert (counters().compiled, counters().from_cache) == before


def test_a_graph_with_many_kernels(random: np.random.Generator) -> None:
    x = normal(random, 16, 16) * np.float32(0.1)
    tensor, expected = Tensor(x), x.astype(np.float64)
    for _ in range(12):
        tensor = (tensor @ tensor + tensor).tanh()
        expected = np.tanh(expected @ expected + expected)
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_random_numbers_within_a_captured_step() -> None:
    manual_seed(7)

    @dovetile.jit
    def draw() -> Tensor:
        return Tensor.rand(100).realize()

    drawn = [draw().numpy().copy() for _ in range(5)]
    assert all((a != b).any() for a, b in zip(drawn, drawn[1:]))


@pytest.fixture
def second(device: Device, spec: DeviceSpec, requires: Requires) -> str:
    """The name of another device of the kind under test."""
    requires(manager().probe(spec).count > 1, "there is but one device")
    request = Request.parse(device.name)
    other = 1 if request.index == 0 else 0
    return str(Request(request.device, request.compiler, request.architecture, other))


def test_tensors_move_between_devices(random: np.random.Generator, second: str) -> None:
    x = normal(random, 5, 7)
    there = Tensor(x).to(second) * 2
    assert there.device == get_device(second).name
    back = there.to(Tensor(x).device) + Tensor(x)
    np.testing.assert_allclose(back.numpy(), x * 3, rtol=1e-6)


def test_gradients_cross_devices(random: np.random.Generator, second: str) -> None:
    x = normal(random, 5)
    tensor = Tensor(x, requires_grad=True)
    tensor.to(second).square().sum().backward()
    assert tensor.grad is not None and tensor.grad.device == tensor.device
    np.testing.assert_allclose(tensor.grad.numpy(), 2 * x, rtol=1e-6)
