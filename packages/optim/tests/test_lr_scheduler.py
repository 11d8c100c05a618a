"""Schedules against PyTorch's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from dovetile import Tensor
from dovetile.errors import ArgumentError
from dovetile_optim import SGD, lr_scheduler

CASES: list[tuple[str, dict[str, Any]]] = [
    ("StepLR", {"step_size": 3, "gamma": 0.5}),
    ("CosineAnnealingLR", {"T_max": 5, "eta_min": 0.01}),
    ("LinearLR", {"start_factor": 0.25, "end_factor": 0.5, "total_iters": 4}),
    ("LambdaLR", {"lr_lambda": lambda epoch: math.exp(-epoch)}),
]


def ours() -> SGD:
    weights = [Tensor([1.0], requires_grad=True) for _ in range(2)]
    return SGD([{"params": [weights[0]]}, {"params": [weights[1]], "lr": 0.3}], lr=0.1)


@pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
def test_rates_agree(name: str, options: dict[str, Any], torch: Any) -> None:
    weights = [torch.ones(1, requires_grad=True) for _ in range(2)]
    theirs = torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:], "lr": 0.3}], lr=0.1)
    our_schedule = getattr(lr_scheduler, name)(ours(), **options)
    their_schedule = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    for _ in range(12):
        assert our_schedule.get_last_lr() == pytest.approx(their_schedule.get_last_lr(), rel=1e-9)
        our_schedule.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch would like optimizer.step() in between
            their_schedule.step()


def test_device_holds_the_rate() -> None:
    optimizer = ours()
    schedule = lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    schedule.step()
    rates = [group.learning_rate.item() for group in optimizer.param_groups]
    assert rates == pytest.approx([0.05, 0.15])


def test_resume() -> None:
    schedule = lr_scheduler.CosineAnnealingLR(ours(), T_max=10)
    for _ in range(4):
        schedule.step()
    other = lr_scheduler.CosineAnnealingLR(ours(), T_max=10)
    other.load_state_dict(schedule.state_dict())
    assert other.get_last_lr() == schedule.get_last_lr()
    with pytest.raises(ArgumentError, match="initial_lr"):
        lr_scheduler.CosineAnnealingLR(ours(), T_max=10, last_epoch=3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: lr_scheduler.StepLR(ours(), step_size=0),
        lambda: lr_scheduler.CosineAnnealingLR(ours(), T_max=0),
        lambda: lr_scheduler.LinearLR(ours(), start_factor=0.0),
        lambda: lr_scheduler.LinearLR(ours(), total_iters=0),
        lambda: lr_scheduler.LambdaLR(ours(), [lambda epoch: 1.0]),
    ],
)
def test_values_out_of_range(make: Callable[[], lr_scheduler.LRScheduler]) -> None:
    with pytest.raises(ArgumentError):
        make()
