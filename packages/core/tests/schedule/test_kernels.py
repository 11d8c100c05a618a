"""How many kernels common graphs become, and in which order they run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("dovetile_cpu")

from graphs import buffer, plan_kernels

from dovetile import Tensor, dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.schedule.kernels import fault_code


def zeros(*shape: int) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))


def adam() -> list[Tensor]:
    g, m, v, p = zeros(50, 40), zeros(50, 40), zeros(50, 40), zeros(50, 40)
    m.assign(m * 0.9 + g * 0.1)
    v.assign(v * 0.99 + g * g * 0.01)
    p.assign(p - m / (v.sqrt() + 1e-8) * 0.01)
    return [p, m, v]


def sums() -> list[Tensor]:
    x = zeros(64, 96)
    return [x.sum(1), (x * x).sum(1)]


def sums_of_everything() -> list[Tensor]:
    x = zeros(64, 96)
    return [x.sum(), (x * x).sum()]


def dear_shared() -> list[Tensor]:
    x = zeros(64, 64).exp().exp()
    return [x.sum(0), x.amax(1)]


FUSION: dict[str, tuple[Callable[[], list[Tensor]], int]] = {
    "elementwise chain": (lambda: [(zeros(64, 64) + 1).exp().relu() * 2], 1),
    "softmax": (lambda: [zeros(64, 128).softmax(1)], 1),
    "softmax over the first axis": (lambda: [zeros(64, 128).softmax(0)], 1),
    "log softmax": (lambda: [zeros(64, 128).log_softmax(1)], 1),
    "cross entropy": (lambda: [zeros(64, 10).cross_entropy(Tensor(np.zeros(64, np.int64)))], 1),
    "layer norm": (lambda: [zeros(64, 128).layer_norm((128,))], 1),
    "layer norm, affine": (lambda: [zeros(64, 128).layer_norm((128,), zeros(128), zeros(128))], 1),
    "variance": (lambda: [zeros(64, 128).var(1)], 1),
    "linear and relu": (lambda: [(zeros(128, 64) @ zeros(64, 32) + zeros(32)).relu()], 1),
    "two linears": (lambda: [(zeros(128, 64) @ zeros(64, 64)).relu() @ zeros(64, 32)], 2),
    "convolution and relu": (
        lambda: [zeros(2, 8, 16, 16).conv2d(zeros(8, 8, 3, 3), zeros(8)).relu()],
        1,
    ),
    "padded convolution copies its input": (
        lambda: [zeros(2, 8, 16, 16).conv2d(zeros(8, 8, 3, 3), zeros(8), padding=1).relu()],
        2,
    ),
    "maximum pooling": (lambda: [zeros(2, 8, 16, 16).max_pool2d(2)], 1),
    "sum and sum of squares": (sums, 1),
    "sum and sum of squares of everything": (sums_of_everything, 1),
    "adam": (adam, 1),
    "attention": (
        lambda: [(zeros(4, 32, 16) @ zeros(4, 16, 32)).softmax(2) @ zeros(4, 32, 16)],
        1,
    ),
    "a long sum": (lambda: [zeros(1 << 20).sum()], 2),
    "a dear value with two readers": (dear_shared, 2),
    "transpose": (lambda: [zeros(64, 32).transpose(0, 1).contiguous()], 1),
    "concatenation": (lambda: [Tensor.cat([zeros(3, 4), zeros(5, 4)])], 1),
    "cumulative sum": (lambda: [zeros(64, 64).cumsum(1)], 1),
    "nothing": (lambda: [zeros(0, 4) + 1], 0),
}


@pytest.mark.parametrize("name", list(FUSION))
def test_number_of_kernels(name: str) -> None:
    make, count = FUSION[name]
    assert len(plan_kernels(*(t.uop for t in make()))) == count


def test_outputs_over_different_loops_stay_apart() -> None:
    x = zeros(64, 32)
    assert len(plan_kernels((x + 1).uop, (x.transpose(0, 1) + 1).contiguous().uop)) == 2


def test_joining_computes_no_reduction_again() -> None:
    """The second value needs the first at transposed places: it reads them from memory."""
    x = buffer((64, 64))
    first = (x + x.reduce(Op.MAX, 1).expand((64,))).stage()
    second = first.permute((1, 0)) + first.reduce(Op.MAX, 1).expand((64,))
    assert len(plan_kernels(second, first)) == 2


def test_outputs_that_share_nothing_stay_apart() -> None:
    assert len(plan_kernels((zeros(64) + 1).uop, (zeros(64) + 2).uop)) == 2


# -- order -----------------------------------------------------------------------------------------


def test_sources_run_first() -> None:
    x = buffer((64, 64))
    first = x.reduce(Op.ADD, 1).stage()
    second = first.reduce(Op.MAX, 1).stage()
    third = x + second.expand((64, 64))
    kernels = plan_kernels(third, first)
    assert len(kernels) == 3
    made = {b for kernel in kernels for b in kernel.writes}
    written: set[UOp] = set()
    for kernel in kernels:
        assert made.intersection(kernel.reads) <= written
        written.update(kernel.writes)


def test_readers_of_the_old_content_run_before_the_write() -> None:
    x = buffer((32, 32))
    total = x.reduce(Op.ADD, 1)
    store = x.store(x * 2)
    kernels = plan_kernels(x.src[0].after(store), total)
    stores = [i for i, k in enumerate(kernels) if any(r.op is Op.STORE for r in k.roots)]
    sums = [i for i, k in enumerate(kernels) if k.reductions]
    assert (sums, stores) == ([0], [1])


def test_a_circle_of_readers_and_writers_makes_a_copy() -> None:
    a, b = buffer((16,)), buffer((16,))
    swap = [x.src[0] if x.src else x for x in (a, b)]
    states = [swap[0].after(swap[0].store(swap[1])), swap[1].after(swap[1].store(swap[0]))]
    assert len(plan_kernels(*states)) == 3


def test_a_check_is_kept_with_its_kernel() -> None:
    x, i = buffer((8, 3)), buffer((5,), dtypes.int64)
    (kernel,) = plan_kernels(UOp(Op.INDEX, x.dtype, (x, i.cast(dtypes.index)), "[test] bad") * 2)
    assert [c.text for c in kernel.checks] == ["[test] bad"]


def test_an_index_that_is_in_bounds_needs_no_check() -> None:
    x, i = buffer((8, 3)), UOp(Op.IOTA, dtypes.index, (), 5)
    (kernel,) = plan_kernels(UOp(Op.INDEX, x.dtype, (x, i + 3), "[test] bad") * 2)
    assert kernel.checks == []


def test_fault_codes_are_numbers_that_last() -> None:
    assert fault_code("[gather] index out of range") == fault_code("[gather] index out of range")
    assert fault_code("a") != fault_code("b") and 0 < fault_code("") < 1 << 32


# -- size ------------------------------------------------------------------------------------------


def test_elementwise_chain_of_5000_is_one_kernel() -> None:
    x = y = buffer((64,))
    for i in range(5000):
        y = y * x if i % 2 else y + 1.0
    (kernel,) = plan_kernels(y)
    assert kernel.shape == (64,)


def test_two_hundred_kernels_take_linear_time() -> None:
    import time

    def seconds(count: int) -> float:
        x, w = buffer((64, 64)), buffer((64,))
        roots = []
        for _ in range(count):
            x = (x.permute((1, 0)) * w.expand((64,)) + x.reduce(Op.MAX, 1).expand((64,))).stage()
            roots.append(x)
        start = time.process_time()
        assert len(plan_kernels(*roots)) == count
        return time.process_time() - start

    seconds(10)
    few, many = min(seconds(50), seconds(50)), seconds(200)
    assert many < 10 * few  # 4 times as many; were it quadratic, this would be 16
