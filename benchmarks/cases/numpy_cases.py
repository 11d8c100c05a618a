"""NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
from inputs import Case, sample, uniform

MODES = {"eager": None}


def _case(function: Callable[..., Any], *inputs: numpy.ndarray) -> Case:
    return Case(lambda: function(*inputs), lambda result: sample(numpy.asarray(result)))


def matmul(_: Any, size: int, dtype: str = "float32") -> Case | None:
    if dtype != "float32":
        return None
    return _case(numpy.matmul, uniform("left", size, size), uniform("right", size, size))


def matvec(_: Any, size: int) -> Case:
    return _case(numpy.matmul, uniform("left", size, size), uniform("vector", size))


def chain(_: Any, count: int) -> Case:
    inputs = [uniform(name, count) for name in "abc"]
    return _case(lambda a, b, c: numpy.maximum(a * b + c, 0), *inputs)


def sum(_: Any, count: int) -> Case:
    return _case(lambda a: a.sum(), uniform("a", count))


def softmax(_: Any, size: int) -> Case:
    def compute(x: numpy.ndarray) -> numpy.ndarray:
        e = numpy.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    return _case(compute, uniform("x", size, size))


def layernorm(_: Any, size: int) -> Case:
    def compute(x: numpy.ndarray, weight: numpy.ndarray, bias: numpy.ndarray) -> numpy.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        variance = numpy.square(centred).mean(-1, keepdims=True)
        return centred / numpy.sqrt(variance + 1e-5) * weight + bias

    return _case(compute, *_norm_inputs(size))


def _norm_inputs(size: int) -> tuple[numpy.ndarray, ...]:
    return uniform("x", size, size), uniform("weight", size), uniform("bias", size)


def eager_add(_: Any, count: int) -> Case:
    return _case(numpy.add, uniform("a", count), uniform("b", count))
