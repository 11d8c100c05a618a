"""Training steps that are captured do what plain ones do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest

nn = pytest.importorskip("dovetile_nn")

from dovetile import Tensor, jit, manual_seed, no_grad  # noqa: E402
from dovetile_optim import SGD, Adam  # noqa: E402
from dovetile_optim.lr_scheduler import CosineAnnealingLR  # noqa: E402


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.norm(self.first(inputs)).relu())


def train(decorate: Callable[[Any], Any], make_optimizer: Callable[..., Any]) -> list[Any]:
    manual_seed(1)
    random = numpy.random.default_rng(2)
    model = Network()
    optimizer = make_optimizer(model.parameters())
    schedule = CosineAnnealingLR(optimizer, T_max=8)

    @decorate
    def step(inputs: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = model(inputs).cross_entropy(labels)
        loss.backward()
        optimizer.step()
        return loss

    @decorate
    def predict(inputs: Tensor) -> Tensor:
        with no_grad():
            return model(inputs)

    found: list[Any] = []
    for number in range(8):
        inputs = Tensor(random.normal(size=(6, 4)).astype(numpy.float32))
        labels = Tensor(random.integers(0, 3, 6))
        found.append(step(inputs, labels).numpy())
        schedule.step()
        if number % 2:
            model.eval()
            found.append(predict(inputs).numpy())
            model.train()
    found += [value.numpy() for value in model.state_dict().values()]
    if isinstance(step, type(jit(step))):
        assert [capture.replays for capture in step.captures] == [6]
        assert [capture.replays for capture in predict.captures] == [2]
    return found


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
        lambda parameters: Adam(parameters, lr=0.01),
        lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    ],
    ids=["SGD", "Adam", "SGD with weight decay"],
)
def test_the_same_numbers_as_without_jit(make_optimizer: Callable[..., Any]) -> None:
    for plain, captured in zip(train(lambda f: f, make_optimizer), train(jit, make_optimizer)):
        numpy.testing.assert_allclose(plain, captured, rtol=1e-4, atol=1e-5)
