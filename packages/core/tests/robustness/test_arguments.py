"""Wrong arguments: each an error of our hierarchy that says what came and what would be right."""

from __future__ import annotations

import numpy as np
import pytest

import dovetile
from dovetile import Tensor
from dovetile.errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    GradientError,
    IndexOutOfRangeError,
    ShapeError,
)


def ones(*shape: int) -> Tensor:
    return Tensor(np.ones(shape, np.float32))


SHAPES = {
    "matmul": lambda: ones(4, 3) @ ones(5, 2),
    "add": lambda: ones(4, 3) + ones(5, 2),
    "cat": lambda: Tensor.cat([ones(4, 3), ones(5, 2)]),
    "stack": lambda: Tensor.stack([ones(4, 3), ones(5, 2)]),
    "reshape": lambda: ones(4, 3).reshape(5, 5),
    "reshape to two unknowns": lambda: ones(4, 3).reshape(-1, -1),
    "reshape to a word": lambda: ones(4, 3).reshape("a"),  # type: ignore[arg-type]
    "expand": lambda: ones(4, 3).expand(4, 7),
    "permute": lambda: ones(4, 3).permute(0, 0),
    "pad": lambda: ones(4, 3).pad((1, 2, 3)),
    "pad below nothing": lambda: ones(4, 3).pad((-5, -5)),
    "conv2d": lambda: ones(4, 3).conv2d(ones(5, 2)),
    "channels": lambda: ones(1, 3, 5, 5).conv2d(ones(4, 2, 3, 3)),
    "window": lambda: ones(1, 3, 2, 2).max_pool2d(3),
    "einsum": lambda: Tensor.einsum("ij,jk->ik", ones(4, 3), ones(5, 2)),
    "zeros": lambda: Tensor.zeros(-1),
    "ragged": lambda: Tensor([[1, 2], [3]]),
    "setitem": lambda: ones(4, 3).__setitem__(0, ones(5, 2)),
    "assign": lambda: ones(4, 3).assign(ones(5, 2)),
    "item": lambda: ones(4, 3).item(),
    "len": lambda: len(Tensor(1.0)),
    "targets": lambda: ones(4, 3).cross_entropy(Tensor([0, 1])),
    "layer_norm": lambda: ones(4, 3).layer_norm((4,)),
    "amax of nothing": lambda: ones(0).amax(),
}
DTYPES = {
    "condition": lambda: ones(2).where(ones(2), ones(2)),
    "and": lambda: ones(2) & ones(2),
    "shift": lambda: ones(2) << 1,
    "mean of integers": lambda: Tensor([1, 2]).mean(),
    "text": lambda: Tensor("abc"),
    "objects": lambda: Tensor(np.array([object()])),
    "complex": lambda: Tensor(np.array([1j])),
    "None": lambda: Tensor(None),
    "too large": lambda: Tensor([2**70]),
    "add text": lambda: ones(2) + "x",  # type: ignore[operator]
    "cast": lambda: ones(2).cast("float33"),  # type: ignore[arg-type]
    "index of text": lambda: ones(2)["a"],  # type: ignore[index]
    "index of floats": lambda: ones(2)[Tensor([1.0])],
    "dim": lambda: ones(2).sum("x"),  # type: ignore[arg-type]
    "gradient of integers": lambda: Tensor([1], requires_grad=True),
}
INDICES = {
    "beyond": lambda: ones(4)[7],
    "before": lambda: ones(4)[-5],
    "too many": lambda: ones(4)[0, 0],
    "of nothing": lambda: ones(0)[0],
    "mask": lambda: ones(4)[Tensor([True])],
    "write": lambda: ones(4).__setitem__(9, 1.0),
    "dim": lambda: ones(4).sum(1),
    "permute": lambda: ones(4, 3).permute(0, 5),
}
OTHERS = {
    "step": (ArgumentError, lambda: ones(4)[::0]),
    "stride": (ArgumentError, lambda: ones(1, 1, 4, 4).max_pool2d(2, stride=0)),
    "arange": (ArgumentError, lambda: Tensor.arange(0, 5, 0)),
    "randint": (ArgumentError, lambda: Tensor.randint(5, 5, (3,))),
    "seed": (ArgumentError, lambda: dovetile.manual_seed(-1)),
    "topk": (ArgumentError, lambda: ones(4).topk(9)),
    "truth": (ArgumentError, lambda: bool(ones(4))),
    "no tensors": (ArgumentError, lambda: Tensor.cat([])),
    "backward": (GradientError, lambda: ones(4).sum().backward()),
    "device": (DeviceError, lambda: Tensor([1], device="QUUX")),
    "index of a device": (DeviceError, lambda: ones(4).to(f"{ones(1).device}:4096")),
    "compiler": (DeviceError, lambda: ones(4).to(f"{ones(1).device}:NOPE")),
}
CASES = [
    *((f"shape {name}", ShapeError, call) for name, call in SHAPES.items()),
    *((f"dtype {name}", DTypeError, call) for name, call in DTYPES.items()),
    *((f"index {name}", IndexOutOfRangeError, call) for name, call in INDICES.items()),
    *((name, error, call) for name, (error, call) in OTHERS.items()),
]


@pytest.mark.parametrize(("error", "call"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_wrong_arguments(error, call):
    with pytest.raises(error, match=r"^\[\w+\] .*"):
        call()


def test_numbers_wrap_as_their_dtype_does():
    assert (Tensor(np.zeros(2, np.uint8)) + 300).numpy().tolist() == [44, 44]


def _written(x: Tensor, indices: Tensor) -> Tensor:
    x[indices] = 1.0
    return x


BAD_DATA = {
    "read": lambda x, bad: x[bad],
    "gather": lambda x, bad: x.gather(0, bad.reshape(2, 1)),
    "write": lambda x, bad: _written(x.clone(), bad),
    "used in a sum": lambda x, bad: x[bad].sum(),
    "targets": lambda x, bad: x.cross_entropy(Tensor.cat([bad, bad])),
}


@pytest.mark.parametrize("bad", [[1, 9], [-5, 0]])
@pytest.mark.parametrize("name", BAD_DATA)
def test_indices_in_data_are_checked_when_it_is_read(name, bad):
    x = ones(4, 3)
    with pytest.raises(IndexOutOfRangeError, match=r"^\[\w+\] an index lies outside dim \d"):
        BAD_DATA[name](x, Tensor(bad)).numpy()
    assert (x + 1).sum().item() == 24
