"""Level 3: every operation on every dtype against NumPy, through Tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dovetile import Tensor, dtypes
from dovetile.dtypes import DType
from dovetile.plugins import Capabilities
from dovetile.tensor import realize_all
from dovetile_testing.operations import OPERATIONS, Operation

Requires = Callable[[bool, str], None]

# A few units in the last place of each dtype.
TOLERANCE = {"float64": 1e-14, "float32": 5e-7, "float16": 2e-3, "bfloat16": 1.6e-2}
# Where the reference computes: wide enough that its own errors do not count.
WIDE = {"f": np.float64, "i": np.int64, "u": np.uint64, "b": np.bool_}

CASES = [
    pytest.param(operation, dtype, id=f"{operation.name}-{dtype.name}")
    for operation in OPERATIONS
    for dtype in dtypes.TENSOR_DTYPES
    if dtype.kind in operation.kinds and dtype not in dtypes.FLOAT8  # whose results mean little
]


@pytest.mark.parametrize(("operation", "dtype"), CASES)
def test_operation(
    capabilities: Capabilities,
    requires: Requires,
    random: np.random.Generator,
    operation: Operation,
    dtype: DType,
) -> None:
    requires(dtype.name in capabilities.dtypes, f"{dtype.name} is not stored")
    inputs = operation.inputs(random, dtype, dtypes.to_numpy(dtype))
    result = operation.compute(*(Tensor(array) for array in inputs))
    with np.errstate(all="ignore"):
        expected = np.asarray(operation.reference(*(x.astype(WIDE[dtype.kind]) for x in inputs)))
    actual = result.numpy()
    assert actual.shape == tuple(result.shape) == expected.shape
    assert actual.dtype == dtypes.to_numpy(result.dtype)
    if result.dtype.is_float:
        tolerance = TOLERANCE[result.dtype.name] * operation.slack
        np.testing.assert_allclose(
            actual.astype(np.float64), expected, rtol=tolerance, atol=tolerance
        )
    else:
        # Integers wrap as the dtype does.
        np.testing.assert_array_equal(actual, expected.astype(actual.dtype))


@pytest.mark.parametrize("source", dtypes.TENSOR_DTYPES, ids=lambda dtype: dtype.name)
def test_casts(capabilities: Capabilities, requires: Requires, source: DType) -> None:
    """To every dtype, all results at once: each kernel is a call of the compiler."""
    requires(source.name in capabilities.dtypes, f"{source.name} is not stored")
    targets = [dtype for dtype in dtypes.TENSOR_DTYPES if dtype.name in capabilities.dtypes]
    numbers = np.array([0, 1, 2, 3, 100] if source.kind in "bu" else [0, 1, -1, 2, -3, 100])
    # Negative floats have no unsigned counterpart.
    arrays = [x.astype(dtypes.to_numpy(source)) for x in (numbers, abs(numbers))]
    if source.is_float:
        arrays = [(x.astype(np.float64) * 1.25).astype(x.dtype) for x in arrays]
    tensors = [Tensor(x) for x in arrays]
    results = [tensors[target.kind == "u"].cast(target) for target in targets]
    realize_all(results)
    for target, result in zip(targets, results):
        expected = arrays[target.kind == "u"].astype(dtypes.to_numpy(target))
        np.testing.assert_array_equal(result.numpy(), expected, err_msg=f"to {target.name}")


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
def test_special_floats(capabilities: Capabilities, requires: Requires, name: str) -> None:
    requires(name in capabilities.dtypes, f"{name} is not stored")
    host = dtypes.to_numpy(getattr(dtypes, name))
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0]).astype(host)
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        for compute, reference in (
            (Tensor.exp, np.exp),
            (Tensor.log, np.log),
            (Tensor.sqrt, np.sqrt),
            (Tensor.sin, np.sin),
            (Tensor.tanh, np.tanh),
            (lambda t: 1 / t, lambda a: 1 / a),
            (lambda t: t.maximum(t.flip(0)), lambda a: np.maximum(a, a[::-1])),
            (lambda t: t.amax(), np.max),
            (lambda t: t == t, lambda a: a == a),
            (lambda t: t <= 0, lambda a: a <= 0),
        ):
            actual = compute(Tensor(x)).numpy().astype(np.float64)
            tolerance = TOLERANCE[name]
            np.testing.assert_allclose(actual, reference(wide), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (257,), (3, 1, 129)])
def test_shapes(random: np.random.Generator, shape: tuple[int, ...]) -> None:
    x = random.standard_normal(shape).astype(np.float32)
    result = (Tensor(x) * 2 + 1).numpy()
    assert result.shape == shape
    np.testing.assert_allclose(result, x * 2 + 1, rtol=1e-6)
    np.testing.assert_allclose(Tensor(x).sum().numpy(), x.sum(), rtol=1e-5, atol=1e-5)


def test_random_numbers_are_the_same_on_every_device() -> None:
    from dovetile import manual_seed

    manual_seed(42)
    numbers = Tensor.rand(1000).numpy()
    assert 0 <= numbers.min() and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.05
    manual_seed(42)
    np.testing.assert_array_equal(Tensor.rand(1000).numpy(), numbers)
    assert (Tensor.rand(1000).numpy() != numbers).any()
