"""Transcendental functions and activations: accuracy, special values, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from comparison import compare, normal

from dovetile import Tensor, dtypes
from dovetile.errors import ArgumentError

pytestmark = pytest.mark.usefixtures("reference")

EVERYWHERE = ["exp", "exp2", "expm1", "sin", "cos", "tan", "sinh", "cosh", "tanh", "erf", "sigmoid"]
POSITIVE = ["log", "log2", "log10", "sqrt", "rsqrt"]


@pytest.mark.parametrize("name", EVERYWHERE)
def test_functions(name: str) -> None:
    compare(lambda x: getattr(x, name)(), normal(4, 5) * 2)


@pytest.mark.parametrize("name", POSITIVE)
def test_functions_of_positive_numbers(name: str) -> None:
    compare(lambda x: getattr(x, name)(), np.abs(normal(4, 5)) + 0.01)


def test_log1p_and_expm1_near_zero() -> None:
    small = np.array([1e-20, -1e-12, 1e-9, 3e-5, -0.3, 0.7, 0.0])
    compare(lambda x: x.log1p(), small, rtol=1e-13, atol=0)
    compare(lambda x: x.expm1(), small, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", [*EVERYWHERE, *POSITIVE, "log1p"])
def test_special_values(name: str) -> None:
    if name in ("sin", "cos", "tan"):
        special = np.array([math.nan, 0.0])
    else:
        special = np.array([math.nan, math.inf, -math.inf, 0.0])
    compare(lambda x: getattr(x, name)(), special, gradients=False)


# Greatest error in units in the last place of float32, against float64. exp2 is NumPy's here; exp
# multiplies by log2(e) first, which lowering makes accurate on devices.
ACCURACY = {"tanh": 4, "sigmoid": 8, "erf": 4, "log": 3, "log1p": 5, "sin": 1, "sqrt": 1}


@pytest.mark.parametrize(("name", "units"), ACCURACY.items())
def test_single_precision(name: str, units: int) -> None:
    torch = pytest.importorskip("torch")
    x = np.concatenate([np.linspace(-6, 6, 4001), np.geomspace(1e-6, 1, 500)]).astype(np.float32)
    if name in ("log", "log1p", "sqrt"):
        x = np.abs(x) + np.float32(1e-3)
    exact = getattr(torch, name)(torch.tensor(x.astype(np.float64))).numpy()
    error = np.abs(getattr(Tensor(x), name)().numpy().astype(np.float64) - exact)
    scale = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    if name in ("log", "sin"):  # near their zeros the absolute error counts
        scale = np.maximum(scale, 1.2e-7)
    assert (error / scale).max() <= units


# Half the distance of neighbours, and what float32 loses before.
HALF_UNIT = {"float16": 2.0**-11 * 1.02, "bfloat16": 2.0**-8 * 1.02}


@pytest.mark.parametrize("dtype", HALF_UNIT)
@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid", "silu", "gelu"])
def test_small_floats_are_rounded_once(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64).to(getattr(torch, dtype))
    functions = torch.nn.functional if name in ("silu", "gelu") else torch
    exact = getattr(functions, name)(x.double()).numpy()
    value = Tensor(x.float().numpy()).cast(getattr(dtypes, dtype))
    result = getattr(value, name)().float().numpy().astype(np.float64)
    normal = np.abs(exact) > 1e-4  # of float16
    assert (np.abs(result - exact)[normal] <= HALF_UNIT[dtype] * np.abs(exact[normal])).all()


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_far_from_zero(approximate: str) -> None:
    x = np.array([-1e30, -100, -14, -6, 14, 1e30, math.inf, math.nan], np.float32)
    result = Tensor(x).gelu(approximate).numpy()
    np.testing.assert_array_equal(result[[0, 1]], [0, 0])
    assert -1e-8 < result[3] < 0 and -1e-30 < result[2] <= 0
    np.testing.assert_array_equal(result[4:], x[4:])


ACTIVATIONS = ["relu", "relu6", "leaky_relu", "elu", "celu", "selu", "silu", "gelu", "softplus",
               "logsigmoid", "mish", "hardtanh", "hardsigmoid", "hardswish", "softsign"]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    torch = pytest.importorskip("torch")
    compare(
        lambda x: getattr(x, name)(), np.concatenate([normal(30) * 3, [30.0, -40.0, 0.3]]),
        torch_function=getattr(torch.nn.functional, name), rtol=1e-7,
    )  # fmt: skip


def test_gelu_by_tanh() -> None:
    torch = pytest.importorskip("torch")
    gelu = torch.nn.functional.gelu
    compare(
        lambda x: x.gelu("tanh"), normal(20), torch_function=lambda x: gelu(x, approximate="tanh")
    )
    with pytest.raises(ArgumentError, match="approximate"):
        Tensor([1.0]).gelu("fast")


def test_gradients_at_zero_follow_torch() -> None:
    torch = pytest.importorskip("torch")
    for name in ("relu", "softplus", "elu", "leaky_relu"):
        compare(lambda x, n=name: getattr(x, n)(), np.zeros(2),
                torch_function=getattr(torch.nn.functional, name))  # fmt: skip


@pytest.mark.parametrize("name", ["tanh", "erf", "sigmoid", "gelu", "silu", "softplus"])
def test_gradients_of_large_values_are_finite(name: str) -> None:
    x = Tensor(np.array([-1e30, -1e4, 1e4, 1e30], np.float32), requires_grad=True)
    getattr(x, name)().sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


def test_integers_become_float32() -> None:
    assert Tensor([1, 4]).sqrt().tolist() == [1.0, 2.0]
