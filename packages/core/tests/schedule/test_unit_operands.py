"""Which operands of units are read through copies, and that the products of copies are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import group_units
import numpy as np
import pytest

from dovetile import Tensor, dtypes
from dovetile.dtypes import DType
from dovetile.environment import context
from dovetile.ir.uop import UOp
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.use_group_unit import UseGroupUnit
from dovetile.plugins import Capabilities
from dovetile.schedule import make, unit_operands
from dovetile.schedule.place import place
from dovetile.schedule.simplify import simplify_tensors

UNITS = tuple(group_units.unit(64, t) for t in (dtypes.int8, dtypes.bfloat16, dtypes.float32))
TARGET = replace(
    group_units.target("stores", *UNITS),
    bytes_per_second=4e12, operations_per_second=6e13, launch_seconds=1e-9,
)  # fmt: skip
Product = Callable[[Tensor, Tensor], Tensor]


def tensor(*shape: int, dtype: DType = dtypes.int8) -> Tensor:
    values = np.random.default_rng(sum(shape)).integers(-9, 9, shape)
    return Tensor(values.astype(dtypes.to_numpy(dtype))).realize()


def product(a: Tensor, b: Tensor) -> Tensor:
    wide = dtypes.int32 if a.dtype is dtypes.int8 else dtypes.float32
    return a.cast(wide) @ b.cast(wide)


def copies(result: Tensor, target: Capabilities = TARGET) -> list[tuple[int, ...]]:
    """The shapes of the copies, as they lie in memory."""
    sink = simplify_tensors(UOp.sink(result.uop), target)
    placement = place(sink, target)
    unit_operands.choose(placement, target)
    found = [item for relaid in placement.relaid.values() for item in relaid.items()]
    return [layout.in_memory(node.shape) for node, layout in found]


LAYOUTS: dict[str, tuple[Product, list[tuple[int, ...]]]] = {
    "nn": (product, [(192, 256)]),
    "nt": (lambda a, b: product(a, b.reshape(192, 256).transpose(0, 1)), []),
    "tn": (lambda a, b: product(a.reshape(256, 128).transpose(0, 1), b), [(128, 256), (192, 256)]),
}


@pytest.mark.parametrize(("multiply", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_operands_are_copied_that_do_not_lie_along_the_sum(
    multiply: Product, expected: list[tuple[int, ...]]
):
    assert copies(multiply(tensor(128, 256), tensor(256, 192))) == expected


def test_batches_keep_their_places():
    assert copies(product(tensor(3, 128, 256), tensor(3, 256, 64))) == [(3, 64, 256)]


def rounded(*shape: int) -> Tensor:
    return tensor(*shape, dtype=dtypes.float32).cast(dtypes.float16).float()


OTHERS: dict[str, Callable[[], Tensor]] = {
    "a unit that transposes": lambda: product(
        tensor(128, 256, dtype=dtypes.bfloat16), tensor(256, 192, dtype=dtypes.bfloat16)
    ),
    "rows that fill no unit": lambda: product(tensor(32, 256), tensor(256, 192)),
    "a sum that fills no row": lambda: product(tensor(128, 72), tensor(72, 192)),
    "other types": lambda: product(tensor(128, 256), tensor(256, 192, dtype=dtypes.uint8)),
    "types in between": lambda: rounded(128, 256) @ rounded(256, 192),
    "one matrix on both sides": lambda: product(x := tensor(128, 128), x),
}  # fmt: skip


@pytest.mark.parametrize("make_other", OTHERS.values(), ids=OTHERS)
def test_no_copies_for(make_other: Callable[[], Tensor]):
    with context(MATMUL_PRECISION="high"):
        assert copies(make_other()) == []


def test_units_that_round_on_request():
    a, b = (tensor(128, 128, dtype=dtypes.float32) for _ in range(2))
    a = (a + 1).contiguous().realize()
    assert copies(a @ b) == []
    with context(MATMUL_PRECISION="high"):
        assert copies(a @ b) == [(128, 128)]


def test_copies_take_less_time_than_they_save():
    slow = replace(TARGET, launch_seconds=1e-6)
    assert copies(product(tensor(128, 256), tensor(256, 192)), slow) == []
    assert copies(product(tensor(1024, 1024), tensor(1024, 1088)), slow) != []


def test_the_unit_is_used():
    result = product(tensor(128, 256), tensor(256, 192))
    device = SimpleNamespace(capabilities=TARGET)
    name = result.device or ""
    kernels, _, _ = make.schedule(UOp.sink(result.uop), {name: device}, name)  # type: ignore[dict-item]
    used = [
        any(isinstance(o, UseGroupUnit) for o in heuristic(kernel.ast, TARGET))
        for kernel in kernels
        if kernel.ast is not None
    ]
    assert used == [False, True]


def held(a: Tensor, b: Tensor) -> Tensor:
    """A product one of whose operands is made in the graph."""
    return product(a, (b + 1).contiguous())


@pytest.mark.parametrize("multiply", [product, LAYOUTS["tn"][0], held])
def test_products_are_right(multiply: Product, monkeypatch: pytest.MonkeyPatch):
    choose, found = unit_operands.choose, []

    def for_units(placement: unit_operands.Placement, target: Capabilities) -> None:
        choose(placement, replace(TARGET, architecture=target.architecture))
        found.extend(placement.relaid)

    monkeypatch.setattr(unit_operands, "choose", for_units)
    a, b = tensor(128, 256), tensor(256, 192)
    first, second = (x.numpy().astype(np.int32) for x in (a, b))
    if multiply is LAYOUTS["tn"][0]:
        first = first.reshape(256, 128).T
    second = second + (multiply is held)
    np.testing.assert_array_equal(multiply(a, b).numpy(), first @ second)
    assert found
