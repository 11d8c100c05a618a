"""Every optimiser against its namesake in PyTorch: the same numbers, step by step."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

import dovetile_optim
from dovetile import Tensor, jit

torch: Any = pytest.importorskip("torch")

SHAPES = [(3, 5), (7,), ()]
STEPS = 6

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.2}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-3}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True}),
    ("Adam", {"lr": 0.05, "betas": (0.0, 0.9), "maximize": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True}),
]
IDS = [f"{name}-{'-'.join(options) or 'defaults'}" for name, options in CASES]


class Pair:
    """The same parameters and gradients in both libraries."""

    def __init__(self, name: str, options: dict[str, Any], seed: int = 0):
        self.generator = numpy.random.default_rng(seed)
        values = [self.random(shape) for shape in SHAPES]
        self.ours = [Tensor(value, requires_grad=True) for value in values]
        self.theirs = [torch.tensor(value, requires_grad=True) for value in values]
        self.our_optimizer = getattr(dovetile_optim, name)(self.ours, **options)
        self.their_optimizer = getattr(torch.optim, name)(self.theirs, **options)

    def random(self, shape: tuple[int, ...]) -> numpy.ndarray:
        return numpy.asarray(self.generator.standard_normal(shape), dtype=numpy.float32)

    def step(self, without: int | None = None) -> None:
        for index, (our, their) in enumerate(zip(self.ours, self.theirs)):
            gradient = self.random(our.shape)
            our.grad = None if index == without else Tensor(gradient)
            their.grad = None if index == without else torch.tensor(gradient)
        self.our_optimizer.step()
        self.their_optimizer.step()

    def check(self) -> None:
        for our, their in zip(self.ours, self.theirs):
            numpy.testing.assert_allclose(
                our.numpy(), their.detach().numpy(), rtol=3e-6, atol=1e-6, strict=True
            )


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_steps_agree(name: str, options: dict[str, Any]) -> None:
    pair = Pair(name, options)
    for _ in range(STEPS):
        pair.step()
        pair.check()


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_parameter_left_out_of_a_step_keeps_its_own_count(
    name: str, options: dict[str, Any]
) -> None:
    pair = Pair(name, options)
    for without in (1, None, 0, None):
        pair.step(without)
        pair.check()


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_state_dict_loads_into_torch(name: str, options: dict[str, Any]) -> None:
    pair = Pair(name, options)
    for _ in range(3):
        pair.step()
    ours = pair.our_optimizer.state_dict()
    state = {
        index: {key: torch.tensor(tensor.numpy()) for key, tensor in tensors.items()}
        for index, tensors in ours["state"].items()
    }
    theirs = pair.their_optimizer.state_dict()
    assert set(ours["param_groups"][0]) <= set(theirs["param_groups"][0])
    for index, tensors in theirs["state"].items():
        for key, tensor in tensors.items():
            if tensor is not None:
                numpy.testing.assert_allclose(state[index][key], tensor, rtol=3e-6, atol=1e-6)
    groups = [
        {**theirs_group, **ours_group}
        for theirs_group, ours_group in zip(theirs["param_groups"], ours["param_groups"])
    ]
    pair.their_optimizer.load_state_dict({"state": state, "param_groups": groups})
    pair.step()
    pair.check()


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_state_dict_loads_from_torch(name: str, options: dict[str, Any]) -> None:
    trained = Pair(name, options)
    for _ in range(3):
        trained.step()
    fresh = Pair(name, options, seed=1)
    for our, their, source in zip(fresh.ours, fresh.theirs, trained.theirs):
        their.data = source.data.clone()
        our.assign(Tensor(source.detach().numpy().copy())).realize()
    fresh.their_optimizer.load_state_dict(trained.their_optimizer.state_dict())
    fresh.our_optimizer.load_state_dict(trained.their_optimizer.state_dict())
    for _ in range(2):
        fresh.step()
        fresh.check()


def test_groups_override_defaults() -> None:
    generator = numpy.random.default_rng(0)
    values = [generator.standard_normal(4).astype(numpy.float32) for _ in range(2)]
    ours = [Tensor(value, requires_grad=True) for value in values]
    theirs = [torch.tensor(value, requires_grad=True) for value in values]
    groups = [{"weight_decay": 0.5}, {"lr": 0.2}]
    our_optimizer = dovetile_optim.AdamW(
        [{"params": [tensor], **group} for tensor, group in zip(ours, groups)], lr=0.1
    )
    their_optimizer = torch.optim.AdamW(
        [{"params": [tensor], **group} for tensor, group in zip(theirs, groups)], lr=0.1
    )
    for _ in range(3):
        for our, their in zip(ours, theirs):
            gradient = generator.standard_normal(4).astype(numpy.float32)
            our.grad, their.grad = Tensor(gradient), torch.tensor(gradient)
        our_optimizer.step()
        their_optimizer.step()
    for our, their in zip(ours, theirs):
        numpy.testing.assert_allclose(our.numpy(), their.detach().numpy(), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_captured_step_counts_on_and_sees_the_learning_rate(name: str) -> None:
    options: dict[str, Any] = {"lr": 0.1}
    if name == "SGD":
        options |= {"momentum": 0.9, "dampening": 0.5}
    pair = Pair(name, options)
    inputs = [pair.random(shape) for shape in SHAPES]

    @jit
    def train_step(*targets: Tensor) -> Tensor:
        pair.our_optimizer.zero_grad()
        loss = sum((ours - target).square().sum() for ours, target in zip(pair.ours, targets))
        loss.backward()
        pair.our_optimizer.step()
        return loss

    for index in range(STEPS):
        rate = 0.1 / (1 + index)
        pair.our_optimizer.param_groups[0]["lr"] = rate
        pair.their_optimizer.param_groups[0]["lr"] = rate
        loss = train_step(*(Tensor(value) for value in inputs))
        pair.their_optimizer.zero_grad()
        their_loss = sum(
            (theirs - torch.tensor(value)).square().sum()
            for theirs, value in zip(pair.theirs, inputs)
        )
        their_loss.backward()
        pair.their_optimizer.step()
        assert loss.item() == pytest.approx(their_loss.item(), rel=1e-5)
        pair.check()
