"""What optimisers refuse, and what they keep."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from dovetile import Tensor
from dovetile.errors import ArgumentError, ShapeError
from dovetile_optim import SGD, Adam, AdamW


def parameter(*shape: int) -> Tensor:
    return Tensor(numpy.ones(shape, dtype=numpy.float32), requires_grad=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"betas": (0.9, 1.0)}, "betas are"),
        ({"eps": -1e-8}, "eps is"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Adam([parameter(2)], **options)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ArgumentError, match="nesterov needs a momentum"):
        SGD([parameter(2)], nesterov=True)


def test_parameters_must_be_distinct_tensors_with_gradients() -> None:
    with pytest.raises(ArgumentError, match="no parameters"):
        SGD([])
    with pytest.raises(ArgumentError, match="is a float"):
        SGD([1.0])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="does not require a gradient"):
        SGD([Tensor([1.0])])
    twice = parameter(2)
    with pytest.raises(ArgumentError, match="given twice"):
        SGD([{"params": [twice]}, {"params": [twice]}])


def test_fixed_hyperparameters_cannot_be_set() -> None:
    optimizer = AdamW([parameter(2)])
    with pytest.raises(ArgumentError, match="weight_decay cannot change"):
        optimizer.param_groups[0]["weight_decay"] = 0.5
    optimizer.param_groups[0]["weight_decay"] = 0.01  # no change


def test_zero_grad() -> None:
    weight = parameter(2)
    optimizer = SGD([weight])
    weight.grad = Tensor([1.0, 2.0])
    optimizer.zero_grad(set_to_none=False)
    assert weight.grad.numpy().tolist() == [0.0, 0.0]
    optimizer.zero_grad()
    assert weight.grad is None


def test_closure_gives_the_loss() -> None:
    weight = parameter(3)
    optimizer = SGD([weight], lr=0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss is not None
    assert loss.item() == 3.0
    assert weight.numpy().tolist() == [0.0, 0.0, 0.0]


def test_load_state_dict_refuses_what_does_not_fit() -> None:
    optimizer = Adam([parameter(2), parameter(3)])
    state = optimizer.state_dict()
    with pytest.raises(ArgumentError, match=r"hold \[2\] parameters"):
        Adam([parameter(2)]).load_state_dict(state)
    with pytest.raises(ShapeError, match="exp_avg of parameter 0"):
        Adam([parameter(4), parameter(3)]).load_state_dict(state)
    with pytest.raises(ArgumentError, match="lacks max_exp_avg_sq"):
        Adam([parameter(2), parameter(3)], amsgrad=True).load_state_dict(state)


def test_resumed_training_is_exactly_the_same() -> None:
    gradients = numpy.random.default_rng(0).standard_normal((6, 4)).astype(numpy.float32)

    def train(optimizer: Adam, weight: Tensor, rows: numpy.ndarray) -> None:
        for row in rows:
            weight.grad = Tensor(row)
            optimizer.step()

    whole = parameter(4)
    train(Adam([whole], lr=0.1), whole, gradients)

    first = parameter(4)
    optimizer = Adam([first], lr=0.1)
    train(optimizer, first, gradients[:3])
    saved = {
        "state": {
            index: {name: tensor.numpy().copy() for name, tensor in tensors.items()}
            for index, tensors in optimizer.state_dict()["state"].items()
        },
        "param_groups": optimizer.state_dict()["param_groups"],
    }
    second = Tensor(first.numpy().copy(), requires_grad=True)
    resumed = Adam([second])
    resumed.load_state_dict(saved)
    assert resumed.param_groups[0]["lr"] == 0.1
    train(resumed, second, gradients[3:])
    assert second.numpy().tolist() == whole.numpy().tolist()


def test_load_keeps_the_device_buffers_of_a_captured_step() -> None:
    first, second = parameter(2), parameter(3)
    optimizer = Adam([first, second])
    counter = optimizer.state[0]["step"]
    assert counter is optimizer.state[1]["step"]
    state = optimizer.state_dict()
    for index in (0, 1):
        state["state"][index] = {**state["state"][index], "step": numpy.float32(5)}
    optimizer.load_state_dict(state)
    assert optimizer.state[0]["step"] is optimizer.state[1]["step"]
    assert optimizer.state[0]["step"].item() == 5.0
