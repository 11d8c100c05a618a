"""Movement: every method against NumPy and PyTorch, and random chains of them."""

from __future__ import annotations

import numpy as np
import pytest
from comparison import compare, normal
from hypothesis import given, settings
from hypothesis import strategies as st

import dovetile
from dovetile import Tensor, dtypes
from dovetile.errors import ArgumentError, IndexOutOfRangeError, ShapeError

pytestmark = pytest.mark.usefixtures("reference")

METHODS = [
    lambda x: x.reshape(4, -1), lambda x: x.reshape((2, 2, 6)), lambda x: x.permute(2, 0, 1),
    lambda x: x.transpose(0, -1), lambda x: x.flatten(), lambda x: x.flatten(1, 2),
    lambda x: x.unsqueeze(1).squeeze(1), lambda x: x.unsqueeze(-1), lambda x: x.flip(0, 2),
    lambda x: x.unsqueeze(0).expand(3, -1, -1, -1), lambda x: x.repeat(2, 1, 3),
    lambda x: x.repeat(2, 1, 1, 1), lambda x: x.repeat_interleave(3, 1),
    lambda x: x.repeat_interleave(2), lambda x: x.narrow(1, 1, 2), lambda x: x.roll(2, 1),
    lambda x: x.roll((1, -2), (0, 2)), lambda x: x.roll(5), lambda x: x.movedim(0, 2),
    lambda x: x.movedim((0, 1), (2, 0)), lambda x: x.unflatten(2, (2, -1)), lambda x: x.mT,
    lambda x: x.split(3, 2)[1], lambda x: x.chunk(3, 1)[2], lambda x: x.unbind(1)[1],
    lambda x: x.split([1, 3], 2)[1], lambda x: x.diagonal(1, 2), lambda x: x.tril(),
    lambda x: x.triu(1), lambda x: x.tril(-1),
]  # fmt: skip


@pytest.mark.parametrize("method", range(len(METHODS)))
def test_methods(method: int) -> None:
    def theirs(x):
        if method == METHODS.index(METHODS[26]):
            return x.diagonal(dim1=1, dim2=2)
        return METHODS[method](x)

    compare(METHODS[method], normal(2, 3, 4), torch_function=theirs)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("pad", [(1, 2), (2, 0), (0, 1), (3, 3)])
def test_padding(mode: str, pad: tuple) -> None:
    torch = pytest.importorskip("torch")
    compare(
        lambda x: x.pad(pad, mode), normal(2, 3, 5),
        torch_function=lambda x: torch.nn.functional.pad(x, pad, mode),
    )  # fmt: skip


def test_padding_with_a_value_and_negative() -> None:
    torch = pytest.importorskip("torch")
    for pad, value in [((1, 2, 0, 1), 5.5), ((-1, 2), -1.0), ((-1, -2, 3, -1), 0.0)]:
        compare(
            lambda x, p=pad, v=value: x.pad(p, value=v), normal(3, 5),
            torch_function=lambda x, p=pad, v=value: torch.nn.functional.pad(x, p, value=v),
        )  # fmt: skip


def test_joining() -> None:
    torch = pytest.importorskip("torch")
    arrays = normal(2, 3), normal(2, 1, seed=1), normal(2, 0, seed=2), normal(2, 4, seed=3)
    compare(lambda *x: dovetile.cat(x, 1), *arrays, torch_function=lambda *x: torch.cat(x, 1))
    same = normal(2, 3), normal(2, 3, seed=1), normal(2, 3, seed=2)
    compare(lambda *x: dovetile.stack(x, -1), *same, torch_function=lambda *x: torch.stack(x, -1))
    special = dovetile.cat([Tensor([-0.0, np.inf]), Tensor([np.nan])]).numpy()
    assert np.signbit(special[0]) and np.isinf(special[1]) and np.isnan(special[2])
    assert dovetile.cat([Tensor([1]), Tensor([0.5])]).dtype is dtypes.float32
    assert dovetile.cat([Tensor([True]), Tensor([False])]).tolist() == [True, False]


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list]:
    """A shape, and steps as (name, argument) that fit one after the other."""
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    start, steps = shape, []
    for _ in range(draw(st.integers(1, 6))):
        name = draw(st.sampled_from(["reshape", "permute", "pad", "shrink", "flip", "expand"]))
        rank = len(shape)
        if name == "permute":
            argument = tuple(draw(st.permutations(range(rank))))
            shape = tuple(shape[i] for i in argument)
        elif name == "flip":
            argument = tuple(i for i in range(rank) if draw(st.booleans()))
        elif name == "pad":
            argument = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in shape)
            shape = tuple(a + n + b for n, (a, b) in zip(shape, argument))
        elif name == "shrink":
            cuts = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
            argument = tuple(slice(a, b) for a, b in cuts)
            shape = tuple(b - a for a, b in cuts)
        elif name == "expand":
            argument = (draw(st.integers(0, 3)), *shape)
            shape = argument
        else:
            argument = tuple(n for n in shape if n != 1 or draw(st.booleans()))
            if argument and draw(st.booleans()):
                argument = (int(np.prod(argument)),)
            shape = argument
        if int(np.prod(shape)) > 2000:
            return start, steps
        steps.append((name, argument))
    return start, steps


@given(chains())
@settings(max_examples=150)
def test_chains_of_movement(case: tuple) -> None:
    shape, steps = case
    array = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape) + 1
    tensor = Tensor(array)
    for name, argument in steps:
        if name == "reshape":
            tensor, array = tensor.reshape(argument), array.reshape(argument)
        elif name == "permute":
            tensor, array = tensor.permute(argument), array.transpose(argument)
        elif name == "flip":
            tensor, array = tensor.flip(argument), np.flip(array, argument)
        elif name == "pad":
            flat = [side for pair in reversed(argument) for side in pair]
            tensor, array = tensor.pad(flat), np.pad(array, argument) if argument else array
        elif name == "shrink":
            tensor, array = tensor[argument], array[argument]
        else:
            tensor, array = tensor.expand(argument), np.broadcast_to(array, argument)
        assert tensor.shape == array.shape
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_identity_moves_cost_nothing() -> None:
    x = Tensor(normal(2, 3))
    assert x.reshape(2, 3) is x and x.permute(0, 1) is x and x.flip(()) is x


def test_errors() -> None:
    x = Tensor.ones(2, 3)
    with pytest.raises(ShapeError, match=r"\[reshape\] \(2, 3\) to \(4, 2\)"):
        x.reshape(4, 2)
    with pytest.raises(ShapeError, match=r"\[reshape\].*-1"):
        x.reshape(-1, 4)
    with pytest.raises(ShapeError, match=r"\[permute\]"):
        x.permute(0, 0)
    with pytest.raises(IndexOutOfRangeError, match=r"\[transpose\] dim 2"):
        x.transpose(0, 2)
    with pytest.raises(ShapeError, match=r"\[expand\]"):
        x.expand(4, 3)
    with pytest.raises(ShapeError, match=r"\[cat\]"):
        dovetile.cat([x, Tensor.ones(3, 2)], 0)
    with pytest.raises(ArgumentError, match=r"\[stack\] no tensors"):
        dovetile.stack([])
    with pytest.raises(IndexOutOfRangeError, match=r"\[narrow\]"):
        x.narrow(1, 2, 2)
    with pytest.raises(ArgumentError, match=r"\[pad\] mode"):
        x.pad((1, 1), "mirror")
    with pytest.raises(ShapeError, match=r"\[pad\] reflect"):
        x.pad((3, 0), "reflect")
    with pytest.raises(ShapeError, match="ints"):
        x.reshape("23")
