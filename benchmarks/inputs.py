"""The data that all contenders work on, and what a case is. The same in every process."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

SAMPLES = 256


@dataclass(frozen=True)
class Case:
    """A piece of work: one complete call, which of its results are checked.

    One call does the row's work so many `times`.
    """

    call: Callable[[], Any]
    values: Callable[[Any], numpy.ndarray]
    times: int = 1


def uniform(name: str, *shape: int) -> numpy.ndarray:
    """float32 between -1 and 1, which `name` and `shape` decide."""
    generator = numpy.random.default_rng(zlib.crc32(f"{name}{shape}".encode()))
    values = generator.random(shape, dtype=numpy.float32)
    values *= 2
    values -= 1
    return values


def integers(name: str, high: int, *shape: int) -> numpy.ndarray:
    """int64 from 0 to below `high`."""
    return numpy.random.default_rng(zlib.crc32(name.encode())).integers(0, high, shape)


def positions(size: int) -> numpy.ndarray:
    """Indices, spread evenly, of the elements that are checked."""
    return numpy.unique(numpy.linspace(0, size - 1, min(SAMPLES, size)).astype(numpy.int64))


def sample(array: numpy.ndarray) -> numpy.ndarray:
    """The elements that are checked, first to last."""
    return array.reshape(-1)[positions(array.size)]


def parameter(name: str, shape: tuple[int, ...]) -> numpy.ndarray:
    """A model's parameter or statistic: sizes under which values stay moderate in depth."""
    if name.endswith("num_batches_tracked"):
        return numpy.zeros(shape, numpy.int64)
    values = uniform(name, *shape)
    if name.endswith("running_var"):
        return 1 + 0.5 * values
    if len(shape) > 1:  # as many times its variance as a layer with a ReLU behind it needs
        return values * numpy.float32((3.0 / (values[0].size)) ** 0.5)
    return 1 + 0.1 * values if name.endswith("weight") else 0.1 * values


def orthogonal(size: int) -> numpy.ndarray:
    """A float32 matrix of which products neither grow nor vanish."""
    return numpy.linalg.qr(uniform("orthogonal", size, size))[0].astype(numpy.float32)


def parameters(shapes: dict[str, tuple[int, ...]]) -> dict[str, numpy.ndarray]:
    """All of a model's state by name."""
    return {name: parameter(name, shape) for name, shape in shapes.items()}
