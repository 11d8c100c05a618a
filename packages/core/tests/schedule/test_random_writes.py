"""Random programs of assigns, views and lazy values against NumPy, which does all of it at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

pytest.importorskip("dovetile_cpu")

from dovetile import Tensor

_SIZE = 4
Draw = Callable[[st.SearchStrategy[Any]], Any]


class Program:
    """Square tensors and, for each, the array it must equal. Views alias in both worlds."""

    def __init__(self) -> None:
        start = np.arange(_SIZE * _SIZE, dtype=np.int32).reshape(_SIZE, _SIZE)
        self.memory = [start.copy(), start * -2 + 7]
        self.tensors = [Tensor(a.copy()) for a in self.memory]
        self.lazy: list[tuple[Tensor, np.ndarray]] = []

    def view(self, draw: Draw, pair: tuple) -> tuple:
        kind = draw(st.sampled_from(["whole", "whole", "transpose", "rows", "columns"]))
        x, a = pair
        if kind == "transpose":
            return x.transpose(0, 1), a.T
        start = draw(st.integers(0, _SIZE - 2))
        if kind == "rows":
            return x[start : start + 2], a[start : start + 2]
        if kind == "columns":
            return x[:, start : start + 2], a[:, start : start + 2]
        return x, a

    def source(self, draw: Draw) -> tuple:
        pairs = [*zip(self.tensors, self.memory), *self.lazy]
        return draw(st.sampled_from(pairs))

    def value(self, draw: Draw) -> tuple:
        x, a = self.source(draw)
        kind = draw(st.sampled_from(["scale", "flip", "transpose", "sum", "add", "self", "same"]))
        if kind == "scale":
            return x * 2 + 1, a * 2 + 1
        if kind == "flip":
            return x.flip(0) * 3, a[::-1] * 3
        if kind == "transpose":
            return x.transpose(0, 1) + 3, a.T + 3
        if kind == "sum":
            total = x.sum(1, keepdim=True, dtype=x.dtype)
            return x - total, a - a.sum(1, keepdims=True, dtype=np.int32)
        if kind == "same":
            return x * 1, a * 1
        y, b = self.source(draw)
        if kind == "add":
            return x + y, a + b
        return x.maximum(y) * 1, np.maximum(a, b)

    def step(self, draw: Draw) -> None:
        kind = draw(st.sampled_from(["assign", "assign", "assign", "lazy", "realize", "item"]))
        if kind == "lazy":
            x, a = self.value(draw)
            self.lazy.append((x, np.array(a)))
            return
        if kind == "realize":
            self.source(draw)[0].realize()
            return
        number = draw(st.integers(0, 1))
        target, memory = self.tensors[number], self.memory[number]
        if kind == "item":
            i, v = draw(st.integers(0, _SIZE - 1)), draw(st.integers(-9, 9))
            target[i] = v
            memory[i] = v
            return
        x, a = self.value(draw)
        view, place = self.view(draw, (target, memory))
        rows, columns = place.shape
        a = np.array(a)[:rows, :columns]
        view.assign(x[:rows, :columns])
        place[...] = a

    def check(self) -> None:
        for x, a in [*self.lazy, *zip(self.tensors, self.memory)]:
            np.testing.assert_array_equal(x.numpy(), a)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.data())
def test_programs(data: st.DataObject) -> None:
    program = Program()
    for _ in range(data.draw(st.integers(1, 9))):
        program.step(data.draw)
    program.check()
