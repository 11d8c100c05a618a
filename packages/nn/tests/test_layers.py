"""Every layer against its namesake in PyTorch: outputs, gradients, state dicts both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest

import dovetile_nn
from dovetile import Tensor
from dovetile.errors import ArgumentError, ShapeError

CASES: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("Linear", (5, 3), {}, (4, 5)),
    ("Linear", (5, 3), {"bias": False}, (2, 4, 5)),
    ("Linear", (5, 3), {}, (5,)),
    ("Conv2d", (2, 4, 3), {}, (2, 2, 7, 6)),
    ("Conv2d", (2, 4, (3, 1)), {"stride": (2, 1), "padding": 1, "bias": False}, (2, 2, 7, 6)),
    ("Conv2d", (4, 6, 2), {"groups": 2, "dilation": 2, "padding": (1, 2)}, (1, 4, 5, 5)),
    ("BatchNorm1d", (3,), {}, (6, 3)),
    ("BatchNorm1d", (3,), {"momentum": None}, (4, 3, 5)),
    ("BatchNorm2d", (3,), {"eps": 1e-2, "momentum": 0.3}, (4, 3, 2, 5)),
    ("BatchNorm2d", (3,), {"affine": False, "track_running_stats": False}, (4, 3, 2, 5)),
    ("LayerNorm", (6,), {}, (3, 6)),
    ("LayerNorm", ((2, 3),), {"bias": False, "eps": 1e-3}, (4, 2, 3)),
    ("LayerNorm", (6,), {"elementwise_affine": False}, (3, 6)),
    ("MaxPool2d", (2,), {}, (2, 3, 6, 7)),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1}, (2, 3, 6, 7)),
    ("AvgPool2d", (2,), {"stride": 1}, (2, 3, 4, 5)),
    ("ReLU", (), {}, (3, 4)),
    ("GELU", (), {}, (3, 4)),
    ("GELU", (), {"approximate": "tanh"}, (3, 4)),
    ("SiLU", (), {}, (3, 4)),
    ("Sigmoid", (), {}, (3, 4)),
    ("Tanh", (), {}, (3, 4)),
    ("Flatten", (), {}, (2, 3, 4)),
    ("Flatten", (0, 1), {}, (2, 3, 4)),
    ("Identity", (), {}, (2, 3)),
]
IDS = [
    f"{name}-{'-'.join(options) or 'defaults'}-{len(shape)}d" for name, _, options, shape in CASES
]


def random(*shape: int, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).standard_normal(shape).astype(numpy.float32)


def close(ours: Tensor | None, theirs: Any) -> None:
    assert ours is not None and theirs is not None
    numpy.testing.assert_allclose(
        ours.numpy(), theirs.detach().numpy(), rtol=2e-5, atol=2e-5, strict=True
    )


def as_torch(torch: Any, state: dict[str, Tensor]) -> dict[str, Any]:
    return {name: torch.tensor(tensor.numpy()) for name, tensor in state.items()}


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), CASES, ids=IDS)
def test_agrees_with_torch(
    name: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    shape: tuple[int, ...],
    torch: Any,
) -> None:
    ours = getattr(dovetile_nn, name)(*arguments, **options)
    theirs = getattr(torch.nn, name)(*arguments, **options)
    # Theirs to ours first: names, order and shapes must be the same.
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for round_index in range(3):  # batch norm moves its statistics from batch to batch
        values = random(*shape, seed=round_index)
        our_inputs = Tensor(values, requires_grad=True)
        their_inputs = torch.tensor(values, requires_grad=True)
        our_outputs, their_outputs = ours(our_inputs), theirs(their_inputs)
        close(our_outputs, their_outputs)
        upstream = random(*their_outputs.shape, seed=9)
        (our_outputs * Tensor(upstream)).sum().backward()
        (their_outputs * torch.tensor(upstream)).sum().backward()
        close(our_inputs.grad, their_inputs.grad)
    for (_, our_parameter), (_, their_parameter) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        numpy.testing.assert_allclose(
            our_parameter.grad.numpy(), their_parameter.grad.numpy(), rtol=1e-4, atol=1e-4
        )
    # And back: what training changed, PyTorch can load; both then agree in evaluation mode.
    theirs.load_state_dict(as_torch(torch, ours.state_dict()))
    ours.eval()
    theirs.eval()
    values = random(*shape, seed=7)
    close(ours(Tensor(values)), theirs(torch.tensor(values)))


def test_embedding(torch: Any) -> None:
    ours, theirs = dovetile_nn.Embedding(7, 3), torch.nn.Embedding(7, 3)
    ours.load_state_dict(theirs.state_dict())
    indices = numpy.array([[0, 6, 2], [2, 2, 1]])
    our_outputs, their_outputs = ours(Tensor(indices)), theirs(torch.tensor(indices))
    close(our_outputs, their_outputs)
    our_outputs.square().sum().backward()
    their_outputs.square().sum().backward()
    close(ours.weight.grad, theirs.weight.grad)


@pytest.mark.parametrize(
    ("make", "name", "bound"),
    [
        (lambda: dovetile_nn.Linear(100, 300), "weight", 0.1),
        (lambda: dovetile_nn.Linear(100, 3000), "bias", 0.1),
        (lambda: dovetile_nn.Conv2d(16, 64, 5), "weight", 0.05),
    ],
)
def test_uniform_initial_values(
    make: Callable[[], dovetile_nn.Module], name: str, bound: float
) -> None:
    values = dict(make().named_parameters())[name].numpy()
    assert abs(values).max() <= bound
    assert abs(values).max() > 0.98 * bound
    assert abs(values.mean()) < 0.05 * bound
    # The standard deviation of a uniform distribution is its bound / sqrt(3).
    assert values.std() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_embedding_is_normal_at_first() -> None:
    values = dovetile_nn.Embedding(200, 100).weight.numpy()
    assert abs(values.mean()) < 0.03
    assert values.std() == pytest.approx(1.0, rel=0.03)


def test_layers_do_not_start_alike() -> None:
    first, second = dovetile_nn.Linear(4, 4), dovetile_nn.Linear(4, 4)
    assert first.weight.numpy().tolist() != second.weight.numpy().tolist()


def test_dropout() -> None:
    dropout = dovetile_nn.Dropout(0.25)
    inputs = Tensor.ones(200, 200, requires_grad=True)
    outputs = dropout(inputs)
    outputs.sum().backward()
    values = outputs.numpy()
    assert set(numpy.unique(values)) == {numpy.float32(0), numpy.float32(1 / 0.75)}
    assert (values == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert inputs.grad is not None
    assert inputs.grad.numpy().tolist() == values.tolist()
    assert dropout(inputs).numpy().tolist() != values.tolist()
    assert dropout.eval()(inputs) is inputs


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_dropout_refuses(p: float) -> None:
    with pytest.raises(ArgumentError, match="p is"):
        dovetile_nn.Dropout(p)


def test_convolution_refuses_groups_that_do_not_divide() -> None:
    with pytest.raises(ArgumentError, match="groups=3 must divide"):
        dovetile_nn.Conv2d(4, 6, 3, groups=3)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 2, 2), (3,)])
def test_batch_norm_refuses_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="BatchNorm2d"):
        dovetile_nn.BatchNorm2d(3)(Tensor.zeros(*shape))


def test_batch_norm_refuses_a_batch_without_variance() -> None:
    with pytest.raises(ShapeError, match="more than one value per channel"):
        dovetile_nn.BatchNorm1d(3)(Tensor.zeros(1, 3))
