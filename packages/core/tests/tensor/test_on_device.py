"""A sample of Tensor on the default device, against PyTorch and against the reference evaluator."""

from __future__ import annotations

import numpy as np
import pytest
from comparison import compare, normal

import dovetile
from dovetile import Tensor, dtypes, manual_seed
from dovetile.errors import DeviceError


@pytest.fixture(autouse=True)
def device() -> str:
    from dovetile.tensor import placement

    try:
        return placement.default_device_name()
    except DeviceError:
        pytest.skip("no device is installed")


SINGLE = {"rtol": 2e-4, "atol": 2e-5}


def single(*shape: int, seed: int = 0) -> np.ndarray:
    return normal(*shape, seed=seed).astype(np.float32)


FUNCTIONS = {
    "elementwise": lambda x: ((x * 2 + 1).tanh() / (x.abs() + 1)).exp(),
    "functions": lambda x: x.erf() + x.sigmoid() + x.log1p() + x.expm1() + x.cos(),
    "movement": lambda x: x.transpose(0, 1).flip(0).reshape(2, 6)[:, 1:].permute(1, 0),
    "reduction": lambda x: x.sum(0) + x.mean(0) + x.amax(0) + x.var(0),
    "softmax": lambda x: x.softmax(1) + x.log_softmax(0),
    "matmul": lambda x: x @ x.mT @ x,
    "slices": lambda x: x[::2, 1:] * x[0, 1:],
    "cumsum": lambda x: x.cumsum(1),
    "indices": lambda x: x[[0, 2, 2]] * 2,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    array = single(3, 4)
    if name == "functions":
        array = np.abs(array)
    compare(FUNCTIONS[name], array, **SINGLE)


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"groups": 2}], ids=str)
def test_convolution_and_pooling(options: dict) -> None:
    functional = pytest.importorskip("torch").nn.functional
    weight = single(4, 4 // options.get("groups", 1), 3, 3, seed=1)
    compare(
        lambda x, w: x.conv2d(w, **options).relu().max_pool2d(2), single(2, 4, 7, 7), weight,
        torch_function=lambda x, w: functional.max_pool2d(
            functional.conv2d(x, w, **options).relu(), 2
        ), **SINGLE,
    )  # fmt: skip


def test_cross_entropy() -> None:
    functional = pytest.importorskip("torch").nn.functional
    compare(lambda x, t: x.cross_entropy(t), single(5, 4), np.array([0, 3, -100, 2, 1]),
            torch_function=functional.cross_entropy, **SINGLE)  # fmt: skip


def test_embedding_gradient_by_scatter() -> None:
    compare(lambda w, i: w[i] * 2, single(5, 4), np.arange(60) * 7 % 5, **SINGLE)


def test_writes() -> None:
    x = Tensor(np.zeros((3, 4), np.float32))
    view = x.T
    x[1] = Tensor([1.0, 2.0, 3.0, 4.0])
    x[:, ::2] = 9
    x[[0, 2], [1, 1]] = Tensor([5.0, 6.0])
    expected = np.array([[9, 5, 9, 0], [9, 2, 9, 4], [9, 6, 9, 0]], np.float32)
    np.testing.assert_array_equal(x.numpy(), expected)
    np.testing.assert_array_equal(view.numpy(), expected.T)
    before = x * 10
    x += 1
    assert x.realize().tolist()[0][1] == 6.0 and before.tolist()[0][1] == 50.0


def test_order() -> None:
    values, order = Tensor([3.0, 1.0, 2.0, 1.0]).sort()
    assert values.tolist() == [1.0, 1.0, 2.0, 3.0] and order.tolist() == [1, 3, 2, 0]


def test_indices_out_of_range() -> None:
    with pytest.raises(IndexError, match="outside dim 0 of size 2"):
        Tensor([1.0, 2.0])[Tensor([2])].numpy()
    with pytest.raises(IndexError, match="outside dim 1 of size 3"):
        Tensor.ones(2, 3).cross_entropy(Tensor([0, 5])).numpy()


@pytest.mark.parametrize("name", ["bool", "uint8", "int16", "int64", "float16", "bfloat16",
                                  "float64"])  # fmt: skip
def test_dtypes(name: str) -> None:
    dtype = dtypes.from_name(name)
    x = Tensor([[0, 1, 2], [3, 4, 5]]).cast(dtype)
    expected = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtypes.to_numpy(dtype))
    np.testing.assert_array_equal(x.numpy(), expected)
    np.testing.assert_array_equal((x + x).numpy(), expected + expected)
    assert x.sum().item() == expected.astype(np.float64).sum()


def test_empty_reduction() -> None:
    assert Tensor.zeros(0, 3).sum(0).tolist() == [0.0] * 3


def test_empty_and_zero_dimensional() -> None:
    assert (Tensor(2.0) * 3).item() == 6.0 and (Tensor(np.zeros((2, 0))) + 1).shape == (2, 0)
    assert Tensor(np.zeros((2, 0))).numpy().shape == (2, 0)


def test_the_random_stream_is_that_of_the_reference(request: pytest.FixtureRequest) -> None:
    def draw() -> list:
        manual_seed(11)
        return [Tensor.rand(7).tolist(), Tensor.randint(0, 1000, (5,)).tolist(),
                Tensor.randn(6).numpy()]  # fmt: skip

    uniform, integers, normals = draw()
    assert dovetile.get_rng_state() == [11, 18]
    request.getfixturevalue("reference")
    expected = draw()
    assert uniform == expected[0] and integers == expected[1]
    np.testing.assert_allclose(normals, expected[2], rtol=1e-5, atol=1e-6)


def test_gradient_of_a_maximum_that_another_kernel_computed() -> None:
    """Every window passes on its whole gradient, also where values were rounded in another way."""
    scale, shift = (Tensor(single(16, seed=n), requires_grad=True) for n in (1, 2))
    mean, var = Tensor(np.zeros(16, np.float32)), Tensor(np.ones(16, np.float32))
    x = Tensor(single(8, 16, 8, 8)).batch_norm(mean, var, scale, shift, training=True)
    pooled = x.max_pool2d(2)
    weights = single(*pooled.shape, seed=3)
    (pooled * Tensor(weights)).sum().backward()
    pooled.realize()
    np.testing.assert_allclose(shift.grad.numpy(), weights.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
