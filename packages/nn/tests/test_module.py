"""Names, modes and state dicts of modules."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from dovetile import Tensor
from dovetile.errors import ArgumentError, ShapeError
from dovetile_nn import BatchNorm2d, Conv2d, Dropout, Linear, Module, ModuleList, ReLU, Sequential


class Network(Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = Tensor.ones(2, requires_grad=True)
        self.register_buffer("offset", Tensor.zeros(2))
        self.constant = Tensor.ones(3)
        self.body = Sequential(Linear(2, 4), ReLU(), Linear(4, 2))
        self.heads = ModuleList([Linear(2, 1, bias=False) for _ in range(2)])

    offset: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body(inputs * self.scale + self.offset)
        return self.heads[0](hidden) + self.heads[1](hidden)


NAMES = [
    "scale",
    "offset",
    "body.0.weight",
    "body.0.bias",
    "body.2.weight",
    "body.2.bias",
    "heads.0.weight",
    "heads.1.weight",
]


def test_names() -> None:
    network = Network()
    assert list(network.state_dict()) == NAMES
    assert [name for name, _ in network.named_parameters()] == [
        name for name in NAMES if name != "offset"
    ]
    assert [name for name, _ in network.named_buffers()] == ["offset"]
    assert network(Tensor.ones(5, 2)).shape == (5, 1)


def test_names_are_those_of_torch(torch: Any) -> None:
    ours = Sequential(Conv2d(1, 2, 3), BatchNorm2d(2), ReLU(), Sequential(Linear(3, 4)))
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3),
        torch.nn.BatchNorm2d(2),
        torch.nn.ReLU(),
        torch.nn.Sequential(torch.nn.Linear(3, 4)),
    )
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_modules()] == [
        name for name, _ in theirs.named_modules()
    ]
    ours.load_state_dict(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert ours.state_dict()[name].numpy().tolist() == tensor.tolist(), name


def test_frozen_parameters_stay_in_the_state() -> None:
    network = Network()
    network.scale.requires_grad_(False)
    assert list(network.state_dict()) == NAMES


def test_a_shared_parameter_is_trained_once_and_saved_under_both_names() -> None:
    first, second = Linear(3, 3, bias=False), Linear(3, 3, bias=False)
    second.weight = first.weight
    both = Sequential(first, second)
    assert len(list(both.parameters())) == 1
    assert list(both.state_dict()) == ["0.weight", "1.weight"]


def test_modes_reach_everything_below() -> None:
    network = Sequential(Dropout(), Sequential(Dropout()))
    assert all(not module.training for module in network.eval().modules())
    assert all(module.training for module in network.train().modules())


def test_load_refuses_what_does_not_fit_and_changes_nothing() -> None:
    network = Network()
    state = {name: tensor.numpy() + 1 for name, tensor in network.state_dict().items()}
    before = network.scale.numpy().tolist()
    with pytest.raises(ArgumentError, match=r"lacks values for scale and .* nothing"):
        network.load_state_dict({name: state[name] for name in NAMES[1:]})
    with pytest.raises(ArgumentError, match="does not know extra"):
        network.load_state_dict({**state, "extra": state["scale"]})
    with pytest.raises(ShapeError, match=r"body.0.weight has shape \(3,\); expected \(4, 2\)"):
        network.load_state_dict({**state, "body.0.weight": numpy.zeros(3)})
    assert network.scale.numpy().tolist() == before
    network.load_state_dict({"scale": state["scale"], "extra": state["scale"]}, strict=False)
    assert network.scale.numpy().tolist() == [2.0, 2.0]


def test_loading_keeps_the_tensors_themselves() -> None:
    layer = Linear(2, 2)
    weight = layer.weight
    layer.load_state_dict({"weight": numpy.eye(2), "bias": numpy.zeros(2)})
    assert layer.weight is weight
    assert weight.numpy().tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert weight.numpy().dtype == numpy.float32


def test_repr() -> None:
    assert repr(Linear(2, 3)) == "Linear(2, 3, bias=True)"
    assert repr(Sequential(ReLU(), Sequential(Dropout(0.1)))) == (
        "Sequential(\n  (0): ReLU()\n  (1): Sequential(\n    (0): Dropout(p=0.1)\n  )\n)"
    )


def test_forgetting_super_init_is_told() -> None:
    class Forgetful(Module):
        def __init__(self) -> None:
            self.layer = Linear(1, 1)

    with pytest.raises(AttributeError, match=r"before super\(\).__init__\(\)"):
        Forgetful()
