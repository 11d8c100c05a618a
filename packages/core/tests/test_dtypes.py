"""Element types: promotion as in PyTorch, conversion as in NumPy."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest

from dovetile import dtypes

EVERY = dtypes.TENSOR_DTYPES


@pytest.mark.parametrize(("a", "b"), list(itertools.product(EVERY, EVERY)), ids=lambda d: d.name)
def test_promotion_follows_torch(a, b):
    torch = pytest.importorskip("torch")
    found = dtypes.promote(a, b)
    assert found is dtypes.promote(b, a)
    if {a, b} & {*dtypes.FLOAT8} and a is not b:  # torch refuses these
        others = {a, b} - {*dtypes.FLOAT8}
        wider = next((d for d in others if d.is_float), None)
        assert found is (wider or (a if a.is_float else b) if others else dtypes.float16)
        return
    try:
        expected = torch.promote_types(getattr(torch, a.name), getattr(torch, b.name))
    except RuntimeError:  # torch has no answer for wide unsigned types; NumPy has
        expected = np.promote_types(dtypes.to_numpy(a), dtypes.to_numpy(b))
        # No integer type holds both uint64 and a signed type: a float, of torch's usual width.
        assert found.name == ("float32" if expected == np.float64 else expected.name)
        return
    assert found.name == str(expected).removeprefix("torch.")


def test_promotion_of_several():
    assert dtypes.promote(dtypes.bool, dtypes.int8, dtypes.float16) is dtypes.float16
    assert dtypes.promote(dtypes.int8) is dtypes.int8


@pytest.mark.parametrize("dtype", EVERY, ids=lambda d: d.name)
@pytest.mark.parametrize("number", [True, 3, 2.5])
def test_python_numbers_are_weak(dtype, number):
    torch = pytest.importorskip("torch")
    expected = torch.result_type(torch.ones(2, dtype=getattr(torch, dtype.name)), number)
    found = dtypes.promote_weak(dtype, number)
    assert found.name == str(expected).removeprefix("torch.")


@pytest.mark.parametrize("dtype", [d for d in EVERY if d.is_integer], ids=lambda d: d.name)
def test_integers_wrap(dtype):
    for value in (0, 1, -1, 255, 256, -129, 2**31, 2**63, -(2**63), 2**64 + 5, 10**30):
        expected = np.asarray(value & ((1 << 64) - 1), np.uint64).astype(dtypes.to_numpy(dtype))
        assert dtype.convert(value) == int(expected)
    info = np.iinfo(dtypes.to_numpy(dtype))
    assert (dtype.minimum, dtype.maximum) == (info.min, info.max)


@pytest.mark.parametrize("dtype", [d for d in EVERY if d.is_float], ids=lambda d: d.name)
def test_floats_round_to_the_type(dtype):
    kind = dtypes.to_numpy(dtype)
    for value in (0.1, -0.1, 1 / 3, 65504.0, 65520.0, 1e-8, 1e-46, 3.4e38, 1e39, 2**53 + 1):
        with np.errstate(over="ignore"):
            np.testing.assert_equal(dtype.convert(value), float(np.asarray(value).astype(kind)))
    assert math.isnan(dtype.convert(math.nan))
    assert math.copysign(1, dtype.convert(-0.0)) == -1


@pytest.mark.parametrize("dtype", dtypes.TENSOR_DTYPES, ids=lambda d: d.name)
def test_patterns_are_the_bits_in_memory(dtype):
    for value in (0, 1, dtype.minimum, dtype.maximum):
        held = np.array([value]).astype(dtypes.to_numpy(dtype))
        assert dtype.pattern(value).to_bytes(dtype.itemsize, "little") == held.tobytes()
    assert dtype.convert(dtype.maximum) == dtype.maximum  # so it can begin a minimum


def test_bool_is_truth():
    assert [dtypes.bool.convert(v) for v in (0, 0.0, 2, -1.5, math.nan)] == [False] * 2 + [True] * 3


@pytest.mark.parametrize("dtype", EVERY, ids=lambda d: d.name)
def test_each_type_exists_once(dtype):
    assert dtypes.from_name(dtype.name) is dtype
    assert dtypes.from_numpy(dtypes.to_numpy(dtype)) is dtype
    assert dtypes.to_numpy(dtype).itemsize == dtype.itemsize
    for kind in (dtype, dtype.vec(4)):
        assert pickle.loads(pickle.dumps(kind)) is kind
        assert copy.deepcopy(kind) is kind
    assert dtype.vec(4) is dtype.vec(4)
    assert dtype.vec(4).scalar is dtype
    assert dtype.vec(1) is dtype


def test_unknown_types():
    assert dtypes.from_name("float8") is None
    assert dtypes.from_name("index") is None
    assert dtypes.from_numpy(np.dtype("complex64")) is None
