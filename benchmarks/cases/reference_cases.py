"""The checked values of every row in float64, by NumPy; of models, by PyTorch in float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy
from inputs import Case, orthogonal, positions, uniform

MODES = {"eager": None}
Array = numpy.ndarray


def _values(values: Array) -> Case:
    return Case(lambda: values, lambda result: numpy.asarray(result))


def _double(name: str, *shape: int) -> Array:
    return uniform(name, *shape).astype(numpy.float64)


def matmul(_: Any, size: int, dtype: str = "float32") -> Case:
    left, right = uniform("left", size, size), uniform("right", size, size)
    if dtype == "bfloat16":
        left, right = left.astype(ml_dtypes.bfloat16), right.astype(ml_dtypes.bfloat16)
    row, column = numpy.divmod(positions(size * size), size)
    pairs = left[row].astype(numpy.float64), right[:, column].T.astype(numpy.float64)
    return _values((pairs[0] * pairs[1]).sum(1))


def matvec(_: Any, size: int) -> Case:
    rows = uniform("left", size, size)[positions(size)].astype(numpy.float64)
    return _values(rows @ _double("vector", size))


def chain(_: Any, count: int) -> Case:
    a, b, c = (uniform(n, count)[positions(count)].astype(numpy.float64) for n in "abc")
    return _values(numpy.maximum(a * b + c, 0))


def sum(_: Any, count: int) -> Case:
    return _values(uniform("a", count).sum(dtype=numpy.float64).reshape(1))


def softmax(_: Any, size: int) -> Case:
    row, column = numpy.divmod(positions(size * size), size)
    x = uniform("x", size, size)[row].astype(numpy.float64)
    e = numpy.exp(x)
    return _values(e[numpy.arange(len(row)), column] / e.sum(1))


def layernorm(_: Any, size: int) -> Case:
    row, column = numpy.divmod(positions(size * size), size)
    x = uniform("x", size, size)[row].astype(numpy.float64)
    normal = (x - x.mean(1, keepdims=True)) / numpy.sqrt(x.var(1, keepdims=True) + 1e-5)
    chosen = normal[numpy.arange(len(row)), column]
    return _values(chosen * _double("weight", size)[column] + _double("bias", size)[column])


def attention(_: Any, heads: int, width: int, length: int) -> Case:
    query, key, value = (_double(name, 1, heads, length, width)[0] for name in "qkv")
    results = []
    for index in positions(heads * length * width):
        head, position, column = numpy.unravel_index(index, (heads, length, width))
        keys, values = key[head, : position + 1], value[head, : position + 1, column]
        e = numpy.exp(keys @ query[head, position] / width**0.5)
        results.append(e @ values / e.sum())
    return _values(numpy.array(results))


def small_matmuls(_: Any, count: int) -> Case:
    x, weight = _double("x", 16, 16), orthogonal(16).astype(numpy.float64)
    return _values((x @ numpy.linalg.matrix_power(weight, count)).ravel())


def eager_add(_: Any, count: int) -> Case:
    return _values(_double("a", count) + _double("b", count))


def _by_torch(name: str) -> Any:
    def case(_: Any, **size: Any) -> Case:
        import torch

        from cases import torch_cases

        torch.set_default_dtype(torch.float64)
        return getattr(torch_cases, name)(torch_cases.MODES["eager"], **size)

    return case


resnet50, mnist, gpt, decode = map(_by_torch, ("resnet50", "mnist", "gpt", "decode"))
