"""softmax, normalisations and losses against PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from comparison import compare, normal

from dovetile import Tensor, dtypes, manual_seed
from dovetile.errors import ArgumentError, DTypeError, ShapeError

pytestmark = pytest.mark.usefixtures("reference")


@pytest.fixture
def functional():
    return pytest.importorskip("torch").nn.functional


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name: str) -> None:
    for dim in (0, 1, -1):
        compare(lambda x, d=dim: getattr(x, name)(d), normal(3, 4, 5) * 3)
    extreme = np.array([[1000.0, 999.0, -1000.0], [-math.inf, 0.0, 0.0], [0.0, math.nan, 1.0]])
    compare(lambda x: getattr(x, name)(1), extreme, gradients=False)


def test_softmax_of_half_precision_and_numbers() -> None:
    assert Tensor.zeros(4, dtype=dtypes.float16).softmax(0).dtype is dtypes.float16
    assert Tensor(3.0).softmax(0).item() == 1.0
    assert Tensor.zeros(2, 0).softmax(1).shape == (2, 0)


def test_layer_norm(functional) -> None:
    compare(lambda x, w, b: x.layer_norm((4, 5), w, b), normal(3, 4, 5), normal(4, 5), normal(4, 5),
            torch_function=lambda x, w, b: functional.layer_norm(x, (4, 5), w, b), rtol=1e-7)  # fmt: skip # noqa: E501
    compare(lambda x: x.layer_norm(5), normal(3, 5),
            torch_function=lambda x: functional.layer_norm(x, (5,)), rtol=1e-7)  # fmt: skip
    with pytest.raises(ShapeError, match=r"\[layer_norm\]"):
        Tensor.ones(2, 3).layer_norm(4)


def test_rms_and_group_norm(functional) -> None:
    compare(lambda x, w: x.rms_norm(5, w, 1e-5), normal(3, 5), normal(5),
            torch_function=lambda x, w: functional.rms_norm(x, (5,), w, 1e-5))  # fmt: skip
    compare(lambda x, w, b: x.group_norm(2, w, b), normal(3, 4, 5), normal(4), normal(4),
            torch_function=lambda x, w, b: functional.group_norm(x, 2, w, b))  # fmt: skip


def test_batch_norm(functional) -> None:
    torch = pytest.importorskip("torch")
    x, w, b = normal(6, 4, 3, 3), normal(4), normal(4, seed=1)
    for training in (True, False):
        mean, var = Tensor(normal(4, seed=2)), Tensor(np.abs(normal(4, seed=3)))
        theirs = torch.tensor(mean.numpy()), torch.tensor(var.numpy())
        compare(
            lambda x, w, b: x.batch_norm(mean, var, w, b, training, 0.2),  # noqa: B023
            x, w, b,
            torch_function=lambda x, w, b: functional.batch_norm(
                x, *theirs, w, b, training, 0.2),  # noqa: B023
            rtol=1e-7,
        )  # fmt: skip
        np.testing.assert_allclose(mean.numpy(), theirs[0].numpy(), rtol=1e-12)
        np.testing.assert_allclose(var.numpy(), theirs[1].numpy(), rtol=1e-12)


def test_cross_entropy(functional) -> None:
    target = np.array([0, 3, -100, 2, 1])
    weight = np.abs(normal(4, seed=5))
    for options in ({}, {"reduction": "sum"}, {"reduction": "none"}, {"label_smoothing": 0.1},
                    {"ignore_index": 3}):  # fmt: skip
        compare(
            lambda x, t, o=options: x.cross_entropy(t, **o), normal(5, 4),
            np.where(target < 0, options.get("ignore_index", -100), target),
            torch_function=lambda x, t, o=options: functional.cross_entropy(x, t, **o),
        )  # fmt: skip
        compare(
            lambda x, t, w, o=options: x.cross_entropy(t, w.detach(), **o), normal(5, 4),
            np.where(target < 0, options.get("ignore_index", -100), target), weight,
            torch_function=lambda x, t, w, o=options: functional.cross_entropy(
                x, t, w.detach(), **o),
        )  # fmt: skip
    compare(lambda x, t: x.cross_entropy(t), normal(2, 4, 3), np.array([[0, 1, 2], [3, 0, 1]]),
            torch_function=functional.cross_entropy)  # fmt: skip
    soft = np.abs(normal(5, 4, seed=2))
    compare(lambda x, t: x.cross_entropy(t), normal(5, 4), soft / soft.sum(1, keepdims=True),
            torch_function=functional.cross_entropy)  # fmt: skip
    compare(lambda x, t: x.cross_entropy(t), normal(4), np.array(2),
            torch_function=functional.cross_entropy)  # fmt: skip


def test_other_losses(functional) -> None:
    a, b = normal(3, 4), normal(3, 4, seed=1)
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        for reduction in ("mean", "sum", "none"):
            compare(lambda x, y, n=name, r=reduction: getattr(x, n)(y, reduction=r), a, b,
                    torch_function=lambda x, y, n=name, r=reduction: getattr(functional, n)(
                        x, y, reduction=r))  # fmt: skip
    wanted = (b > 0).astype(float)
    compare(lambda x: x.binary_cross_entropy_with_logits(Tensor(wanted)), a * 20, rtol=1e-8,
            torch_function=lambda x: functional.binary_cross_entropy_with_logits(
                x, pytest.importorskip("torch").tensor(wanted)))  # fmt: skip
    compare(lambda x: x.sigmoid().binary_cross_entropy(Tensor(wanted)), a,
            torch_function=lambda x: functional.binary_cross_entropy(
                x.sigmoid(), pytest.importorskip("torch").tensor(wanted)))  # fmt: skip


def test_dropout() -> None:
    manual_seed(3)
    x = Tensor.ones(4000, requires_grad=True)
    y = x.dropout(0.25)
    y.sum().backward()
    values = y.numpy()
    assert set(np.unique(values)) == {0.0, np.float32(1 / 0.75)}
    assert abs((values == 0).mean() - 0.25) < 0.03
    np.testing.assert_array_equal(x.grad.numpy(), values)
    assert x.dropout(0.5, training=False) is x
    assert x.dropout(1.0).sum().item() == 0
    with pytest.raises(ArgumentError, match=r"\[dropout\] p 1.5"):
        x.dropout(1.5)


def test_errors() -> None:
    logits = Tensor.ones(3, 4)
    with pytest.raises(ShapeError, match=r"\[nll_loss\] target of shape \(4,\)"):
        logits.cross_entropy(Tensor([0, 1, 2, 3]))
    with pytest.raises(IndexError, match="outside dim 1 of size 4"):
        logits.cross_entropy(Tensor([0, 4, 2])).numpy()
    with pytest.raises(DTypeError, match=r"\[nll_loss\] target of dtype bool"):
        logits.cross_entropy(Tensor([True, False, True]))
    with pytest.raises(ArgumentError, match="reduction 'avg'"):
        logits.mse_loss(logits, "avg")
