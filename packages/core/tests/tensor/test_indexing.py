"""x[...], reading and writing, gather, scatter and order, against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from comparison import compare, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetile import Tensor
from dovetile.errors import ArgumentError, DTypeError, IndexOutOfRangeError, ShapeError

pytestmark = pytest.mark.usefixtures("reference")

I = np.array([[0, 2], [-1, 1]])  # noqa: E741
J = np.array([1, 0])
BASIC = [
    np.s_[0], np.s_[-1, ..., 2], np.s_[1:3], np.s_[:, 1:], np.s_[::2], np.s_[:, ::3], np.s_[1::2, :2],  # noqa: E501
    np.s_[None, 0, None], np.s_[..., None], np.s_[5:2], np.s_[:100], np.s_[...], np.s_[2, 1, 3],
]  # fmt: skip
ADVANCED = [
    np.s_[I], np.s_[:, I], np.s_[I, J], np.s_[J, :, J], np.s_[:, J, J], np.s_[..., I], np.s_[0, :, J],  # noqa: E501
    np.s_[I, 1:, J], np.s_[None, I], np.s_[J[:, None], I[0]], np.s_[::2, [0, 1]], np.s_[[0, 0, 1]],
    np.s_[np.array([], np.int64)],
]  # fmt: skip


@pytest.mark.parametrize("index", [*BASIC, *ADVANCED], ids=lambda i: str(i).replace("\n", ""))
def test_reading(index) -> None:
    torch = pytest.importorskip("torch")

    def theirs(x):
        items = index if isinstance(index, tuple) else (index,)
        return x[tuple(torch.tensor(i) if isinstance(i, np.ndarray) else i for i in items)]

    compare(lambda x: x[index], normal(3, 4, 5), torch_function=theirs)


@given(st.data())
@settings(max_examples=100)
def test_slices(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=3))
    array = np.arange(int(np.prod(shape))).reshape(shape)
    index = tuple(data.draw(st.slices(n)) for n in shape)
    np.testing.assert_array_equal(Tensor(array)[index].numpy(), array[index])
    changed = array.copy()
    changed[index] = -1
    tensor = Tensor(array)
    tensor[index] = -1
    np.testing.assert_array_equal(tensor.numpy(), changed)
    part = changed[index]
    changed[index] = np.arange(part.size).reshape(part.shape)
    tensor[index] = Tensor(np.arange(part.size).reshape(part.shape))
    np.testing.assert_array_equal(tensor.numpy(), changed)


def test_masks() -> None:
    array = normal(3, 4)
    mask = array > 0
    np.testing.assert_array_equal(Tensor(array)[Tensor(array) > 0].numpy(), array[mask])
    np.testing.assert_array_equal(Tensor(array)[mask[:, 0]].numpy(), array[mask[:, 0]])
    np.testing.assert_array_equal(Tensor(array).masked_select(Tensor(mask)).numpy(), array[mask])
    np.testing.assert_array_equal(Tensor(mask).nonzero().numpy(), np.argwhere(mask))
    changed = array.copy()
    changed[mask] = 0
    tensor = Tensor(array)
    tensor[Tensor(mask)] = 0
    np.testing.assert_array_equal(tensor.numpy(), changed)


@pytest.mark.parametrize("index", ADVANCED[:10], ids=lambda i: str(i).replace("\n", ""))
def test_writing(index) -> None:
    torch = pytest.importorskip("torch")
    theirs, tensor = torch.zeros(3, 4, 5, dtype=torch.float64), Tensor(np.zeros((3, 4, 5)))
    items = index if isinstance(index, tuple) else (index,)
    items = tuple(torch.tensor(i) if isinstance(i, np.ndarray) else i for i in items)
    values = normal(*theirs[items].shape)
    theirs[items], tensor[index] = torch.tensor(values), Tensor(values)
    np.testing.assert_array_equal(tensor.numpy(), theirs.numpy())
    theirs[items], tensor[index] = 7, 7
    np.testing.assert_array_equal(tensor.numpy(), theirs.numpy())


def test_writing_changes_views_and_lazy_tensors() -> None:
    tensor = Tensor(np.arange(6.0)).reshape(2, 3)
    view = tensor.T
    tensor[0, 1:] = Tensor([10.0, 20.0])
    assert view.tolist() == [[0.0, 3.0], [10.0, 4.0], [20.0, 5.0]]
    view[0] = -1
    assert tensor.tolist() == [[-1.0, 10.0, 20.0], [-1.0, 4.0, 5.0]]
    lazy = Tensor.zeros(2, 2)
    other = Tensor.zeros(2, 2)
    lazy[0] = 1
    assert lazy.tolist() == [[1.0, 1.0], [0.0, 0.0]] and other.tolist() == [[0.0] * 2] * 2


def test_writes_have_gradients() -> None:
    def function(x, y):
        z = x * 2
        z[0, 1:] = y
        z[:, 0] = z[:, 1] * 3
        return z * z

    compare(function, normal(2, 3), normal(2))

    def scattered(x, y):
        z = x * 1
        z[[2, 0]] = y
        return z * z

    compare(scattered, normal(3), normal(2))


def test_gather_and_take_along_dim() -> None:
    torch = pytest.importorskip("torch")
    index = np.array([[0, 1, 1], [2, 0, 1]])
    for dim in (0, 1):
        compare(lambda x, i, d=dim: x.gather(d, i), normal(3, 4), index)
    compare(lambda x, i: x.take_along_dim(i, 1), normal(2, 4), index,
            torch_function=lambda x, i: torch.take_along_dim(x, i, 1))  # fmt: skip
    compare(lambda x, i: x.index_select(1, i), normal(3, 4), np.array([0, 0, 3]))


@pytest.mark.parametrize("size", [3, 40])
def test_embedding_gradients(size: int) -> None:
    """Few readers: the one-hot form; many: the scatter."""
    compare(lambda w, i: w[i] * 2, normal(5, 4), np.arange(size) * 7 % 5)


def test_scatter() -> None:
    index = np.array([[0, 1, 2, 0], [2, 0, 0, 1]])
    compare(lambda x, i, s: x.scatter_add(0, i, s), normal(3, 4), index, normal(2, 4, seed=1))
    compare(lambda x, i, s: x.scatter(1, i, s), normal(3, 5), np.array([[0, 3], [4, 1]]),
            normal(2, 2, seed=1))  # fmt: skip
    compare(lambda x, i, s: x.index_add(0, i, s), normal(3, 4), np.array([2, 0, 2]), normal(3, 4))
    x = Tensor.zeros(3)
    assert x.scatter(0, Tensor([1, 1]), Tensor([5.0, 6.0])).tolist() == [0.0, 6.0, 0.0]
    assert x.scatter(0, Tensor([1, 1]), 3.0, "amax").tolist() == [0.0, 3.0, 0.0]
    assert x.tolist() == [0.0] * 3


def test_one_hot() -> None:
    assert Tensor([1, 0]).one_hot(3).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert Tensor([1, 0]).one_hot().shape == (2, 2)


@pytest.mark.parametrize("descending", [False, True])
def test_order(descending: bool) -> None:
    torch = pytest.importorskip("torch")
    array = np.array([[3.0, 1.0, np.nan, 2.0, 1.0], [0.0, -1.0, 5.0, 5.0, 4.0]])
    values, order = Tensor(array).sort(1, descending)
    expected = torch.sort(torch.tensor(array), dim=1, descending=descending, stable=True)
    np.testing.assert_array_equal(values.numpy(), expected.values.numpy())
    np.testing.assert_array_equal(order.numpy(), expected.indices.numpy())
    values, _ = Tensor(array[1]).topk(2, largest=descending)
    assert values.tolist() == sorted(array[1], reverse=descending)[:2]


def test_indices_out_of_range() -> None:
    x = Tensor.ones(2, 3)
    with pytest.raises(IndexOutOfRangeError, match=r"index 2 for dim 0 of size 2"):
        x[2]
    with pytest.raises(IndexOutOfRangeError, match="indices for shape"):
        x[0, 0, 0]
    with pytest.raises(IndexError, match=r"\[index\] an index lies outside dim 0 of size 2"):
        x[Tensor([0, 2])].numpy()
    with pytest.raises(IndexError):
        x.gather(1, Tensor([[3]])).numpy()
    with pytest.raises(IndexError):
        x[Tensor([-3])].numpy()


def test_errors() -> None:
    x = Tensor.ones(2, 3)
    with pytest.raises(DTypeError, match=r"\[index\] dtype float32"):
        x[Tensor([0.0])]
    with pytest.raises(DTypeError, match=r"\[index\] str"):
        x["a"]
    with pytest.raises(ShapeError, match=r"\[setitem\] shapes \(4,\) and \(3,\)"):
        x[0] = Tensor.ones(4)
    with pytest.raises(ShapeError, match="do not broadcast"):
        x[Tensor([0, 1]), Tensor([0, 1, 2])]
    with pytest.raises(ArgumentError, match=r"\[scatter\] reduce"):
        x.scatter(0, Tensor([[0]]), 1.0, "mean")
    with pytest.raises(ShapeError, match=r"\[gather\]"):
        x.gather(0, Tensor([0]))
    with pytest.raises(ArgumentError, match=r"\[topk\]"):
        x.topk(4)
