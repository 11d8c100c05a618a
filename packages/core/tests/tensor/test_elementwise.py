"""Arithmetic, comparisons, logic, rounding: against NumPy and PyTorch."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest
from comparison import compare, normal
from hypothesis import given, settings
from hypothesis import strategies as st

import dovetile
from dovetile import Tensor, dtypes
from dovetile.errors import ArgumentError, DeviceError, DTypeError, ShapeError

pytestmark = pytest.mark.usefixtures("reference")

BINARY = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne,
]  # fmt: skip


@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 4)), ((3, 1), (4,)), ((), (2, 3)), ((2, 1, 3), (5, 1)), ((0, 3), (3,))]
)
def test_binary_operators(function, shapes) -> None:
    a, b = normal(*shapes[0]), normal(*shapes[1], seed=1)
    compare(function, a, b, gradients=function not in (operator.floordiv, operator.mod))


@pytest.mark.parametrize("function", [operator.add, operator.sub, operator.mul, operator.truediv,
                                      operator.pow, operator.lt, operator.ge])  # fmt: skip
@pytest.mark.parametrize("number", [2, 0.5, 3.0, True])
@pytest.mark.parametrize("name", ["int32", "float32", "float64", "uint8"])
def test_python_numbers_are_weak(function, number, name) -> None:
    torch = pytest.importorskip("torch")
    a = np.arange(1, 7).astype(name)
    if number is True and function in (operator.pow, operator.sub):
        pytest.skip("PyTorch refuses it")
    result, expected = function(Tensor(a), number), function(torch.tensor(a), number)
    assert result.dtype.name == str(expected.dtype).removeprefix("torch.")
    np.testing.assert_allclose(result.numpy(), expected.numpy(), rtol=1e-6)
    if function is not operator.pow:
        result, expected = function(number, Tensor(a)), function(number, torch.tensor(a))
        np.testing.assert_allclose(result.numpy(), expected.numpy(), rtol=1e-6)


FLOATS = ["float16", "bfloat16", "float32", "float64"]
INTEGERS = ["uint8", "int8", "int16", "int32", "int64"]


@pytest.mark.parametrize("a", [*FLOATS, *INTEGERS, "bool"])
@pytest.mark.parametrize("b", [*FLOATS, *INTEGERS, "bool"])
def test_promotion_follows_torch(a: str, b: str) -> None:
    torch = pytest.importorskip("torch")
    x = Tensor.ones(2, dtype=dtypes.from_name(a))
    y = Tensor.ones(2, dtype=dtypes.from_name(b))
    expected = torch.ones(2, dtype=getattr(torch, a)) + torch.ones(2, dtype=getattr(torch, b))
    assert (x + y).dtype.name == str(expected.dtype).removeprefix("torch.")


@pytest.mark.parametrize("name", INTEGERS)
@given(data=st.data())
@settings(max_examples=25)
@pytest.mark.filterwarnings("ignore:overflow encountered")  # NumPy's, where least // -1 wraps
def test_integer_division_is_pythons(name: str, data: st.DataObject) -> None:
    info = np.iinfo(name)
    numbers = st.lists(st.integers(int(info.min), int(info.max)), min_size=1, max_size=6)
    a = np.array(data.draw(numbers), name)
    b = int(data.draw(st.integers(1, int(info.max)))) * data.draw(st.sampled_from([1, -1]))
    if name == "uint8":
        b = abs(b)
    divisor = np.array(b, name)
    np.testing.assert_array_equal((Tensor(a) // Tensor(divisor)).numpy(), a // divisor)
    np.testing.assert_array_equal((Tensor(a) % Tensor(divisor)).numpy(), a % divisor)
    truncated = Tensor(a).div(Tensor(divisor), rounding_mode="trunc")
    exact = [abs(int(x)) // abs(b) * (1 if int(x) * b >= 0 else -1) for x in a]
    wrapped = np.array([value % 2**64 for value in exact], "uint64").astype(name)
    np.testing.assert_array_equal(truncated.numpy(), wrapped)


def test_division_by_zero() -> None:
    assert (Tensor([4, -4]) // 0).tolist() == [0, 0]
    assert (Tensor([4, -4]) % 0).tolist() == [0, 0]
    assert (Tensor([1.0, -1.0]) / 0).tolist() == [math.inf, -math.inf]
    assert math.isnan((Tensor(0.0) / 0).item())


SPECIAL = np.array([math.nan, math.inf, -math.inf, 0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 3.7, -3.2])


@pytest.mark.parametrize(
    "name", ["abs", "sign", "trunc", "floor", "ceil", "round", "neg", "isnan", "isinf", "isfinite",
             "square", "reciprocal", "frac"],
)  # fmt: skip
def test_unary_on_special_values(name: str) -> None:
    compare(lambda x: getattr(x, name)(), SPECIAL, gradients=False)


@pytest.mark.parametrize("name", ["abs", "square", "reciprocal", "neg"])
def test_unary_gradients(name: str) -> None:
    compare(lambda x: getattr(x, name)(), np.array([-2.0, -0.5, 0.5, 3.0]))


def test_absolute_value_has_no_gradient_at_zero() -> None:
    compare(lambda x: x.abs(), np.array([-1.0, 0.0, 2.0]))


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extremes_share_ties(name: str) -> None:
    a, b = np.array([1.0, 2.0, 3.0, math.nan]), np.array([3.0, 2.0, 1.0, 0.0])
    torch = pytest.importorskip("torch")
    compare(lambda x, y: getattr(x, name)(y), a[:3], b[:3],
            torch_function=lambda x, y: getattr(torch, name)(x, y))  # fmt: skip
    assert math.isnan(getattr(Tensor(a), name)(Tensor(b)).tolist()[3])


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (None, 0.25), (0.0, None), (0.5, 0.5)])
def test_clamp(bounds: tuple) -> None:
    compare(lambda x: x.clamp(*bounds), np.array([-1.0, -0.5, 0.0, 0.25, 0.5, 2.0]))
    compare(lambda x: x.clamp(*bounds), SPECIAL, gradients=False)


def test_bits() -> None:
    a, b = np.array([12, 10, -7], np.int32), np.array([10, 3, 5], np.int32)
    for function in (operator.and_, operator.or_, operator.xor):
        np.testing.assert_array_equal(function(Tensor(a), Tensor(b)).numpy(), function(a, b))
    np.testing.assert_array_equal((~Tensor(a)).numpy(), ~a)
    np.testing.assert_array_equal((Tensor(a) << 2).numpy(), a << 2)
    np.testing.assert_array_equal((Tensor(a) >> 1).numpy(), a >> 1)
    assert (~Tensor([True, False])).tolist() == [False, True]
    assert Tensor([0, 2]).logical_and(Tensor([1, 1])).tolist() == [False, True]


def test_where_and_masked_fill() -> None:
    torch = pytest.importorskip("torch")
    mask = np.array([[True, False, True]])
    compare(
        lambda m, a, b: dovetile.where(m, a, b), mask, normal(2, 3), normal(2, 1, seed=1),
        torch_function=torch.where,
    )  # fmt: skip
    compare(lambda m, a: a.masked_fill(m, 2.5), mask, normal(2, 3))
    assert dovetile.where(Tensor([True, False]), 1, 2).dtype is dtypes.int64
    assert dovetile.where(Tensor([True, False]), 1.0, 2).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("exponent", [-2, -1, 0, 1, 2, 3, 7, 0.5, 1.5, -0.5])
def test_power_of_scalars(exponent: float) -> None:
    compare(lambda x: x**exponent, np.abs(normal(4, 3)) + 0.1, rtol=1e-8)


def test_powers() -> None:
    compare(lambda x, y: x**y, np.abs(normal(5)) + 0.1, normal(5, seed=1), rtol=1e-8)
    compare(lambda x: x**3, normal(5))
    compare(lambda x: 2.0**x, normal(5), rtol=1e-8)
    bases = np.array([-2.0, -2.0, -2.0, 0.0, 0.0, 0.0, 1.0, math.inf, -math.inf, 2.0])
    powers = np.array([3.0, 2.0, 0.5, 0.0, 2.0, -1.0, math.nan, 2.0, 3.0, -math.inf])
    compare(lambda x, y: x**y, bases, powers, gradients=False)


@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 80)), min_size=1, max_size=8))
@settings(max_examples=40)
def test_integer_powers_wrap(pairs: list) -> None:
    base, exponent = (np.array(column, np.int64) for column in zip(*pairs))
    expected = [(int(b) ** int(e) + 2**63) % 2**64 - 2**63 for b, e in pairs]
    assert (Tensor(base) ** Tensor(exponent)).tolist() == expected


def test_casts() -> None:
    values = np.array([-1.7, 0.0, 2.9, 300.0])
    assert Tensor(values).int().tolist() == [-1, 0, 2, 300]
    assert Tensor(values).bool().tolist() == [True, False, True, True]
    assert Tensor(values).half().dtype is dtypes.float16
    assert Tensor([1.0]).bitcast(dtypes.int32).tolist() == [0x3F800000]
    compare(lambda x: (x.float() * 3).double(), values)


def test_errors() -> None:
    a = Tensor.ones(2, 3)
    with pytest.raises(ShapeError, match=r"\[add\] shapes \(2, 3\) and \(4,\)"):
        a + Tensor.ones(4)
    with pytest.raises(DTypeError, match=r"\[mul\] operand of type str"):
        a * "3"
    with pytest.raises(DTypeError, match=r"\[bitwise_and\] dtype float32"):
        a & a
    with pytest.raises(DTypeError, match=r"\[sub\] dtype bool"):
        Tensor([True]) - Tensor([False])
    with pytest.raises(DTypeError, match=r"\[where\] condition of dtype float32"):
        a.where(a, 1)
    with pytest.raises(DeviceError, match=r"\[add\] tensors on A and B"):
        Tensor([1.0], device="A") + Tensor([1.0], device="B")
    with pytest.raises(ArgumentError, match="rounding_mode"):
        a.div(2, rounding_mode="up")
    with pytest.raises(ArgumentError, match="exponents >= 0"):
        Tensor([2]) ** -1
    with pytest.raises(ArgumentError, match="neither min nor max"):
        a.clamp()
