"""Products against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from comparison import compare, normal

import dovetile
from dovetile import Tensor, dtypes
from dovetile.errors import ArgumentError, ShapeError
from dovetile.ir.ops import Op

pytestmark = pytest.mark.usefixtures("reference")


@pytest.mark.parametrize("shapes", [
    ((4, 3), (3, 5)), ((3,), (3,)), ((3,), (3, 5)), ((4, 3), (3,)), ((2, 4, 3), (3, 5)),
    ((2, 4, 3), (2, 3, 5)), ((6, 1, 4, 3), (2, 3, 5)), ((2, 1, 4, 3), (1, 7, 3, 5)),
    ((3,), (2, 3, 5)), ((2, 4, 3), (3,)), ((0, 3), (3, 2)), ((2, 0), (0, 3)),
])  # fmt: skip
def test_matmul(shapes: tuple) -> None:
    compare(lambda a, b: a @ b, normal(*shapes[0]), normal(*shapes[1], seed=1))


def test_dtypes() -> None:
    a, b = np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal((Tensor(a) @ Tensor(b)).numpy(), a @ b)
    half = Tensor.ones(1, 3000, dtype=dtypes.float16) @ Tensor.ones(3000, 1, dtype=dtypes.float16)
    assert half.dtype is dtypes.float16 and half.item() == 3000
    assert (Tensor([[True, False]]) @ Tensor([[False], [True]])).tolist() == [[False]]


def test_one_multiplication_and_one_sum() -> None:
    node = (Tensor.zeros(4, 3) @ Tensor.zeros(3, 5)).uop
    assert node.op is Op.REDUCE and node.arg == (Op.ADD, 1) and node.src[0].op is Op.MUL


def test_linear_outer_and_dot() -> None:
    torch = pytest.importorskip("torch")
    compare(lambda x, w, b: x.linear(w, b), normal(2, 4, 3), normal(5, 3), normal(5),
            torch_function=torch.nn.functional.linear)  # fmt: skip
    compare(lambda a, b: a.outer(b), normal(3), normal(4))
    compare(lambda a, b: a.dot(b), normal(3), normal(3, seed=1))


@pytest.mark.parametrize(("equation", "shapes"), [
    ("ij,jk->ik", [(2, 3), (3, 4)]), ("ij,jk", [(2, 3), (3, 4)]), ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),  # noqa: E501
    ("ij->ji", [(2, 3)]), ("ii->i", [(3, 3)]), ("ii", [(3, 3)]), ("iji->j", [(3, 2, 3)]),
    ("i,j->ij", [(2,), (3,)]), ("ij->", [(2, 3)]), ("...ij,...jk->...ik", [(2, 3, 4), (4, 5)]),
    ("b...,b...->b", [(2, 3, 4), (2, 3, 4)]), ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]),
    ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]), ("...i->i...", [(2, 3, 4)]),
])  # fmt: skip
def test_einsum(equation: str, shapes: list) -> None:
    torch = pytest.importorskip("torch")
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    compare(lambda *x: dovetile.einsum(equation, *x), *arrays,
            torch_function=lambda *x: torch.einsum(equation, *x))  # fmt: skip


def test_errors() -> None:
    with pytest.raises(ShapeError, match=r"\[matmul\] inner sizes differ: \(4, 3\) @ \(5, 2\)"):
        Tensor.ones(4, 3) @ Tensor.ones(5, 2)
    with pytest.raises(ShapeError, match="at least one dim"):
        Tensor(1.0) @ Tensor.ones(2)
    with pytest.raises(ShapeError, match="do not broadcast"):
        Tensor.ones(2, 4, 3) @ Tensor.ones(3, 3, 2)
    with pytest.raises(ArgumentError, match="a Tensor is due"):
        Tensor.ones(2) @ 3.0
    with pytest.raises(ShapeError, match=r"\[einsum\].*sizes 3 and 4"):
        dovetile.einsum("ij,jk->ik", Tensor.ones(2, 3), Tensor.ones(4, 5))
    with pytest.raises(ArgumentError, match=r"\[einsum\]"):
        dovetile.einsum("ij,jk->iz", Tensor.ones(2, 3), Tensor.ones(3, 5))
    with pytest.raises(ArgumentError, match="with 1 operands"):
        dovetile.einsum("ij,jk->ik", Tensor.ones(2, 3))
