"""From graphs to memory: shapes at the edges, plans that are found again, failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dovetile_cpu")

from graphs import expect, place, run

from dovetile import Tensor, counters, dtypes, environment, schedule
from dovetile.errors import GraphError
from dovetile.ir.held import realized
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.runtime.counting import total as compiled_counts
from dovetile.schedule import make, realization


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape) - 3


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 5, 1), (0,), (0, 3), (3, 0, 2)])
def test_elementwise(shape: tuple[int, ...]) -> None:
    x = place(numbers(*shape))
    expect(x * 2 + 1, x.maximum_with(0))


@pytest.mark.parametrize("op", [Op.ADD, Op.MUL, Op.MAX, Op.MIN])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (4, 1), (1, 4), (3, 1, 1)])
def test_reductions_over_single_elements(shape: tuple[int, ...], op: Op) -> None:
    x = place(numbers(*shape))
    expect(x.reduce(op, 1), x.reduce(op, len(shape)))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (0, 0)])
def test_sums_of_nothing(shape: tuple[int, ...]) -> None:
    x = place(numbers(*shape))
    expect(x.reduce(Op.ADD, 1), x.reduce(Op.ADD, len(shape)))


def test_a_number() -> None:
    expect(UOp.const(2.5, dtypes.float32), place(numbers()) * 3)


def test_the_same_value_twice() -> None:
    x = place(numbers(6))
    expect(x + 1, x + 1, (x + 1) * 2)


def test_elementwise_chain_of_5000() -> None:
    x = y = place(np.ones(64, np.float32))
    for i in range(5000):
        y = y * x if i % 2 else y + 1
    (found,) = run(y)
    np.testing.assert_array_equal(found, np.full(64, 2501, np.float32))


# -- plans -----------------------------------------------------------------------------------------


def test_equal_graphs_are_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(
        realization, "make_plan", lambda *args: made.append(1) or make.make_plan(*args)
    )
    for _ in range(3):
        x, y = Tensor(numbers(11, 13)), Tensor(numbers(11, 13))
        np.testing.assert_array_equal((x * y - x).numpy(), numbers(11, 13) ** 2 - numbers(11, 13))
    assert len(made) == 1
    x = Tensor(numbers(11, 13))
    np.testing.assert_array_equal((x * x - x).numpy(), numbers(11, 13) ** 2 - numbers(11, 13))
    assert len(made) == 2  # one input instead of two is another graph


def test_plans_of_like_graphs_are_told_apart() -> None:
    """Each graph differs from one before by a number's sign, a view, an order, an operand."""
    x, y = numbers(12), numbers(12) + 20
    a, b = Tensor(x), Tensor(y)
    for _ in range(2):
        np.testing.assert_array_equal((b / 0.0).numpy(), np.full(12, np.inf, np.float32))
        np.testing.assert_array_equal((b / -0.0).numpy(), np.full(12, -np.inf, np.float32))
        np.testing.assert_array_equal((a[1:5] * 3).numpy(), x[1:5] * 3)
        np.testing.assert_array_equal((a[2:6] * 3).numpy(), x[2:6] * 3)
        np.testing.assert_array_equal((a * 3 - b).numpy(), x * 3 - y)
        np.testing.assert_array_equal((b * 3 - a).numpy(), y * 3 - x)
        np.testing.assert_array_equal((a - b * 3).numpy(), x - y * 3)
        np.testing.assert_array_equal((a * 3 - a).numpy(), x * 3 - x)
        halves = (a * 2).realize()
        np.testing.assert_array_equal((halves.reshape(3, 4).T * b[0]).numpy(),
                                      (x * 2).reshape(3, 4).T * y[0])  # fmt: skip
        np.testing.assert_array_equal((halves.reshape(4, 3).T * b[0]).numpy(),
                                      (x * 2).reshape(4, 3).T * y[0])  # fmt: skip


def test_equal_kernels_are_compiled_once() -> None:
    before = compiled_counts.compiled + compiled_counts.from_cache
    values = [(place(numbers(7, 19)) * 1.25 + 17).stage() for _ in range(4)]
    run(*values)
    assert compiled_counts.compiled + compiled_counts.from_cache - before <= 1


_PROGRAM = """
import json
import numpy as np
from dovetile import Tensor
from dovetile.runtime.counting import total as compiled_counts
from dovetile.schedule import realization

made = []
original = realization.make_plan
realization.make_plan = lambda *args: made.append(1) or original(*args)
x = Tensor(np.arange(60, dtype=np.float32).reshape(5, 12))
y = (x.softmax(1) @ x.transpose(0, 1)).relu().sum()
value = y.item()
print(json.dumps([compiled_counts.compiled, len(made), value]))
"""


def _process(cache: Path) -> tuple[int, int, float]:
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "DOVETILE_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    compiled, planned, value = json.loads(result.stdout)
    return compiled, planned, value


def test_a_second_process_plans_and_compiles_nothing(tmp_path: Path) -> None:
    compiled, planned, value = _process(tmp_path)
    assert compiled >= 1 and planned >= 1
    assert _process(tmp_path) == (0, 0, value)


def test_damaged_plans_are_made_again(tmp_path: Path) -> None:
    compiled, planned, value = _process(tmp_path)
    damaged = 0
    for path in tmp_path.rglob("*"):
        if path.is_file() and "schedule" in path.parts:
            path.write_bytes(b"\0" * 40)
            damaged += 1
    assert damaged == planned
    assert _process(tmp_path) == (0, planned, value)


# -- checks ----------------------------------------------------------------------------------------


def test_checks_name_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that is wrong at its level is found under CHECK=1, and only there."""
    x = place(numbers(4, 4))
    wrong = UOp(Op.PERMUTE, x.dtype, (x + 1,), (0, 0))
    with environment.context(CHECK=1), pytest.raises(GraphError, match="after building the graph"):
        schedule.realize([wrong])
    monkeypatch.setattr(
        make,
        "simplify_tensors",
        lambda sink, target: UOp.sink(UOp(Op.PERMUTE, x.dtype, sink.src, (1, 1))),
    )
    with environment.context(CHECK=1), pytest.raises(GraphError, match="after schedule.simplify"):
        schedule.realize([x + 2])


def test_sources_are_let_go() -> None:
    """A computed value is its memory: the graph that led to it is not scheduled again."""
    x = place(numbers(9))
    y = x * 3
    run(y)
    known = realized(y)
    assert [n.op for n in toposort(known)][0] is Op.BUFFER and Op.MUL not in {
        n.op for n in toposort(known)
    }


def test_a_realized_constant_stays_a_constant() -> None:
    zeros = Tensor.zeros(64, 64).realize()
    assert zeros.numpy().sum() == 0 and Tensor(7.0).realize().item() == 7.0
    before = counters()
    (Tensor([[1.0] * 64] * 64) + zeros).maximum(zeros).numpy()
    work = counters() - before
    assert work.nbytes <= 2 * 64 * 64 * 4  # x and the result: zeros are not read
