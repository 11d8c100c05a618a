"""Creation, values out, assignment, memory and states of buffers, modes of gradients."""

from __future__ import annotations

import gc
import math

import ml_dtypes
import numpy as np
import pytest

import dovetile
from dovetile import Tensor, dtypes
from dovetile.errors import (
    ArgumentError,
    DTypeError,
    GradientError,
    ShapeError,
)
from dovetile.tensor import live_tensors

pytestmark = pytest.mark.usefixtures("reference")


def test_data_and_dtypes() -> None:
    assert Tensor(3).dtype is dtypes.int64 and Tensor(3.0).dtype is dtypes.float32
    assert Tensor(True).dtype is dtypes.bool and Tensor([True]).dtype is dtypes.bool
    assert Tensor([1, 2]).dtype is dtypes.int64 and Tensor([1.0, 2]).dtype is dtypes.float32
    assert Tensor([]).dtype is dtypes.float32 and Tensor([]).shape == (0,)
    for name in ("uint8", "float16", "float64", "int32", "bool"):
        assert Tensor(np.zeros(2, name)).dtype.name == name
    assert Tensor(np.zeros(2, ml_dtypes.bfloat16)).dtype is dtypes.bfloat16
    assert Tensor(np.float64(2)).dtype is dtypes.float64
    assert Tensor([1.5], dtype=dtypes.int32).tolist() == [1]
    assert Tensor(np.arange(6).reshape(2, 3).T).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert Tensor(np.arange(3, dtype=">i4")).tolist() == [0, 1, 2]
    assert Tensor([Tensor(1.0), Tensor(2.0)]).tolist() == [1.0, 2.0]


def test_constants_and_ranges() -> None:
    assert dovetile.zeros(2, 3).tolist() == [[0.0] * 3] * 2
    assert dovetile.full((2,), 7).tolist() == [7, 7]
    assert dovetile.ones(2, dtype=dtypes.int32).dtype is dtypes.int32
    assert dovetile.arange(5).tolist() == [0, 1, 2, 3, 4]
    assert dovetile.arange(5, 0, -2).tolist() == [5, 3, 1]
    assert dovetile.arange(0, 1, 0.25).tolist() == [0.0, 0.25, 0.5, 0.75]
    assert dovetile.arange(0).shape == (0,)
    np.testing.assert_allclose(
        dovetile.linspace(-1, 2, 7).numpy(), np.linspace(-1, 2, 7), rtol=1e-6
    )
    assert dovetile.linspace(0, 0.3, 4).tolist()[-1] == np.float32(0.3)
    assert dovetile.eye(2, 3).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    x = Tensor([1, 2])
    assert x.ones_like().dtype is dtypes.int64 and x.zeros_like(dtype=dtypes.bool).tolist() == [
        False, False]  # fmt: skip
    signs = [math.copysign(1, v) for v in dovetile.full((2,), -0.0).tolist()]
    assert signs == [-1, -1]


def test_values_out() -> None:
    x = Tensor([[1.0, 2.0]])
    assert float(Tensor(2.5)) == 2.5 and int(Tensor([3])) == 3 and bool(Tensor(1))
    assert len(x) == 1 and [row.tolist() for row in x] == [[1.0, 2.0]]
    assert [10, 20, 30][Tensor(1)] == 20
    assert np.asarray(x).dtype == np.float32 and (np.ones(2) * Tensor([2.0, 3.0])).tolist() == [
        2,
        3,
    ]
    assert 2.0 in x and 5.0 not in x
    assert repr(x) == "Tensor(shape=(1, 2), dtype=float32, device=REFERENCE)"
    array = x.numpy()
    array[0, 0] = 9
    assert x.tolist() == [[1.0, 2.0]]
    with pytest.raises(ArgumentError, match="truth value"):
        bool(x)
    with pytest.raises(ShapeError, match=r"\[item\]"):
        x.item()
    with pytest.raises(DTypeError, match="float32"):
        [1, 2][Tensor(1.0)]


def test_from_numpy_shares_memory() -> None:
    array = np.zeros(3, np.float32)
    x = dovetile.from_numpy(array)
    array[1] = 5
    assert x.tolist() == [0.0, 5.0, 0.0]


# -- assign ----------------------------------------------------------------------------------------


def test_assign_broadcasts_and_casts() -> None:
    x = Tensor([[1, 2], [3, 4]])
    assert x.assign(Tensor([1.9, 2.9])) is x and x.tolist() == [[1, 2], [1, 2]]
    assert x.fill_(7).tolist() == [[7, 7], [7, 7]] and x.dtype is dtypes.int64
    with pytest.raises(ShapeError, match=r"\[assign\]"):
        x.assign(Tensor([1, 2, 3]))


def test_readers_before_an_assign_see_the_old_value() -> None:
    x = Tensor([1.0, 2.0])
    before = x * 10
    x.assign(x + 1)
    after = x * 10
    x.realize()
    assert before.tolist() == [10.0, 20.0] and after.tolist() == [20.0, 30.0]


def test_equal_expressions_on_old_and_new_values_differ() -> None:
    """The graph of `x * 2` must not be one node before and after the memory has changed."""
    x = Tensor([1.0])
    first = (x * 2).realize()
    kept = first.uop
    x.assign(Tensor([5.0])).realize()
    assert (x * 2).tolist() == [10.0] and first.tolist() == [2.0] and kept is first.uop


def test_a_result_that_is_written_to_is_computed_again_for_others() -> None:
    x = Tensor([1.0])
    shared = x + 1
    other = shared * 3
    shared.realize()
    shared.assign(Tensor([100.0])).realize()
    assert other.tolist() == [6.0] and shared.tolist() == [100.0]


def test_equal_constants_do_not_share_memory() -> None:
    a, b = Tensor.zeros(3).realize(), Tensor.zeros(3).realize()
    a.assign(a + 1)
    a.realize()
    assert b.tolist() == [0.0] * 3 and a.tolist() == [1.0] * 3


def test_views_show_assigns() -> None:
    x = Tensor([[1.0, 2.0], [3.0, 4.0]])
    row = x[1]
    x += 1
    assert row.tolist() == [4.0, 5.0]
    row *= 2
    assert x.tolist() == [[2.0, 3.0], [8.0, 10.0]]


def test_pending_assigns_do_not_pile_up() -> None:
    from dovetile.ir.uop import toposort

    running, total = Tensor([0.0]), Tensor([0.0])
    for _ in range(50):
        running.assign(running * 0.9 + 0.1)
        total = (total + 1).realize()
    assert len(toposort(running.uop)) < 10
    assert abs(running.item() - (1 - 0.9**50)) < 1e-5


def test_live_tensors() -> None:
    gc.collect()
    count = len(live_tensors())
    x = Tensor([1.0])
    assert len(live_tensors()) == count + 1 and any(t is x for t in live_tensors())
    del x
    gc.collect()
    assert len(live_tensors()) == count


# -- gradients' modes ------------------------------------------------------------------------------


def test_leaves_and_accumulation() -> None:
    x = Tensor([2.0], requires_grad=True)
    y = x * 3
    assert x.is_leaf and not y.is_leaf and y.requires_grad
    y.backward()
    (x * x).backward()
    assert x.grad.tolist() == [7.0]


def test_a_computed_loss_can_still_be_differentiated() -> None:
    x = Tensor([2.0], requires_grad=True)
    loss = (x * x).sum()
    assert loss.item() == 4.0
    loss.backward()
    assert x.grad.tolist() == [4.0]


def test_equal_leaves_are_different_leaves() -> None:
    a, b = Tensor.ones(2, requires_grad=True), Tensor.ones(2, requires_grad=True)
    (a * 2 + b * 3).sum().backward()
    assert a.grad.tolist() == [2.0, 2.0] and b.grad.tolist() == [3.0, 3.0]


def test_training_step_in_place() -> None:
    w = Tensor([1.0], requires_grad=True)
    for step in range(3):
        w.grad = None
        (w * w).sum().backward()
        with dovetile.no_grad():
            w -= w.grad * 0.25
        assert w.requires_grad and w.is_leaf
        if step == 1:
            w.realize()
    assert w.tolist() == [0.125]


def test_no_grad_and_detach() -> None:
    x = Tensor([1.0], requires_grad=True)
    with dovetile.no_grad():
        y = x * 2
        with dovetile.enable_grad():
            assert (x * 2).requires_grad
    assert not y.requires_grad and not x.detach().requires_grad
    z = (y + x.detach() + x).sum()
    z.backward()
    assert x.grad.tolist() == [1.0]

    @dovetile.no_grad()
    def function() -> Tensor:
        return x * 2

    assert not function().requires_grad and (x * 2).requires_grad
    with pytest.raises(GradientError, match="no input of this tensor"):
        y.backward()


def test_requires_grad_errors() -> None:
    with pytest.raises(DTypeError, match=r"\[requires_grad_\] dtype int64"):
        Tensor([1], requires_grad=True)
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(GradientError, match="must have one element"):
        (x * 2).backward()
    with pytest.raises(ShapeError, match="gradient of shape"):
        (x * 2).backward(Tensor([1.0]))
    assert not x.requires_grad_(False).requires_grad


def test_creation_errors() -> None:
    with pytest.raises(ShapeError, match=r"\[Tensor\]"):
        Tensor([[1.0], [1.0, 2.0]])
    with pytest.raises(DTypeError, match=r"\[Tensor\]"):
        Tensor(["a"])
    with pytest.raises(DTypeError, match="complex128"):
        Tensor(np.zeros(2, complex))
    with pytest.raises(ShapeError, match=r"\[full\] shape"):
        Tensor.zeros(-1)
    with pytest.raises(ArgumentError, match=r"\[arange\]"):
        Tensor.arange(0, 5, -1)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = dovetile.nothing_like_it
