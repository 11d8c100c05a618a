"""Attention is one kernel whose memory is linear in the length, and right in every form."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("dovetile_cpu")

from graphs import plan_kernels

from dovetile import Tensor, dtypes, grad
from dovetile.ir.ops import Op
from dovetile.ir.uop import toposort
from dovetile.runtime import get_device


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape, np.float32)


def formula(q, k, v, scale=None, seen=None, added=None) -> np.ndarray:
    """softmax(q @ k.T * scale + added) @ v in float64."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    scores = scores if added is None else scores + added
    scores = scores if seen is None else np.where(seen, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        grown = np.exp(scores - scores.max(-1, keepdims=True))
        return grown / grown.sum(-1, keepdims=True) @ v


def check(found: Tensor, expected: np.ndarray, tolerance: float = 3e-6) -> None:
    assert len(plan_kernels(found.uop)) == 1
    np.testing.assert_allclose(found.numpy(), expected, tolerance, tolerance)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, *mask: Tensor, **options) -> Tensor:
    return Tensor(q).scaled_dot_product_attention(Tensor(k), Tensor(v), *mask, **options)


QUERY, KEY, VALUE = normal(2, 3, 70, 32), normal(2, 3, 90, 32, seed=1), normal(2, 3, 90, 24, seed=2)


def test_the_plain_formula():
    q, k, v = Tensor(QUERY), Tensor(KEY), Tensor(VALUE)
    check((q @ k.mT).softmax(-1) @ v, formula(QUERY, KEY, VALUE, 1.0), 1e-5)


@pytest.mark.parametrize("lengths", [(16, 16), (17, 300), (300, 17), (129, 257)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_lengths(lengths: tuple[int, int], causal: bool):
    rows, keys = lengths
    q, k, v = normal(2, rows, 24), normal(2, keys, 24, seed=1), normal(2, keys, 40, seed=2)
    seen = np.tri(rows, keys, dtype=bool) if causal else None
    check(attend(q, k, v, is_causal=causal), formula(q, k, v, seen=seen))


@pytest.mark.parametrize("sizes", [(2, 64), (7, 13), (128, 200)], ids=str)
def test_head_sizes(sizes: tuple[int, int]):
    q, k, v = normal(2, 64, sizes[0]), normal(2, 96, sizes[0], seed=1), normal(2, 96, sizes[1])
    check(attend(q, k, v), formula(q, k, v))


def test_masks():
    seen = np.random.default_rng(0).random((70, 90)) < 0.7
    seen[5] = False  # as the formula has it, a query that sees no key gets NaN
    check(attend(QUERY, KEY, VALUE, Tensor(seen)), formula(QUERY, KEY, VALUE, seen=seen))
    bias = normal(2, 1, 70, 90)
    check(attend(QUERY, KEY, VALUE, Tensor(bias)), formula(QUERY, KEY, VALUE, added=bias))
    bias[..., 40:] = -np.inf
    check(attend(QUERY, KEY, VALUE, Tensor(bias)), formula(QUERY, KEY, VALUE, added=bias))


def test_masks_from_indices():
    q, k, v = normal(2, 300, 24), normal(2, 300, 24, seed=1), normal(2, 300, 40, seed=2)
    i, j = Tensor.arange(300).reshape(300, 1), Tensor.arange(300).reshape(1, 300)
    seen = np.tri(300, dtype=bool) & ~np.tri(300, k=-40, dtype=bool)
    check(attend(q, k, v, (j <= i) & (j > i - 40)), formula(q, k, v, seen=seen))  # type: ignore[operator]
    check(attend(q, k, v, j < 100), formula(q, k, v, seen=np.arange(300) < 100))  # type: ignore[arg-type]


def test_large_and_infinite_scores():
    check(attend(QUERY, KEY, VALUE, scale=100.0), formula(QUERY, KEY, VALUE, 100.0), 2e-4)
    q, k = QUERY.copy(), KEY.copy()
    q[0, 0, 3, 4] = np.inf
    q[0, 1, 7, 4] = np.nan
    k[1, 1, 20, 3] = np.nan
    check(attend(q, k, VALUE), formula(q, k, VALUE))


@pytest.mark.parametrize("causal", [False, True])
def test_groups_of_heads_read_shared_keys(causal: bool):
    q, k, v = normal(2, 8, 64, 32), normal(2, 2, 96, 32, seed=1), normal(2, 2, 96, 32, seed=2)
    seen = np.tri(64, 96, dtype=bool) if causal else None
    expected = formula(q, np.repeat(k, 4, 1), np.repeat(v, 4, 1), seen=seen)
    check(attend(q, k, v, enable_gqa=True, is_causal=causal), expected)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("float16", 4e-3), ("bfloat16", 3e-2), ("float64", 1e-12)]
)
def test_data_types(name: str, tolerance: float):
    q, k, v = (Tensor(normal(2, 100, 32, seed=s)).cast(getattr(dtypes, name)) for s in range(3))
    arrays = [x.cast(dtypes.float64).numpy() for x in (q, k, v)]
    found = q.scaled_dot_product_attention(k, v, is_causal=True).cast(dtypes.float64).numpy()
    expected = formula(*arrays, seen=np.tri(100, dtype=bool))
    np.testing.assert_allclose(found, expected, tolerance, tolerance)


def test_heads_beside_each_other():
    """The layout that models have: (batch, length, heads, size)."""
    q, k, v = (normal(2, 80, 3, 32, seed=s) for s in range(3))
    found = attend(*(a.swapaxes(1, 2) for a in (q, k, v)), is_causal=True)
    heads = [Tensor(a).transpose(1, 2) for a in (q, k, v)]
    found = heads[0].scaled_dot_product_attention(*heads[1:], is_causal=True)
    expected = formula(*(a.swapaxes(1, 2) for a in (q, k, v)), seen=np.tri(80, dtype=bool))
    check(found.transpose(1, 2).reshape(2, 80, 96), expected.swapaxes(1, 2).reshape(2, 80, 96))


def block(length: int) -> Tensor:
    """Pre-normed attention with four heads of 32 and a residual connection."""
    x = Tensor.zeros(1, length, 128).realize()
    inner, outer = Tensor.zeros(128, 384).realize(), Tensor.zeros(128, 128).realize()
    mixed = (x.layer_norm((128,)) @ inner).reshape(1, length, 3, 4, 32).permute(2, 0, 3, 1, 4)
    heads = mixed[0].scaled_dot_product_attention(mixed[1], mixed[2], is_causal=True)
    return x + heads.transpose(1, 2).reshape(1, length, 128) @ outer


def planned_bytes(graph: Callable[[int], Tensor], length: int) -> int:
    kernels = plan_kernels(graph(length).uop)
    return sum(b.arg.size * b.dtype.itemsize for kernel in kernels for b in kernel.writes)


def test_a_block_is_four_kernels_and_linear_memory():
    """Norm, projection to heads, attention, projection back with the residual."""
    assert len(plan_kernels(block(256).uop)) == 4
    # The norm, three times the width for the heads, attention, and the result.
    assert planned_bytes(block, 256) == 256 * 128 * 4 * 6
    # (longer inputs also hold the statistics of the norm, eight bytes a row)
    assert planned_bytes(block, 1024) == 4 * planned_bytes(block, 256) + 1024 * 8


def test_one_query_is_not_spread_over_lanes():
    """A step of decoding has too few rows for the loop: it goes the way of other reductions."""
    q, k, v = normal(8, 1, 64), normal(8, 300, 64, seed=1), normal(8, 300, 64, seed=2)
    np.testing.assert_allclose(attend(q, k, v).numpy(), formula(q, k, v), 3e-6, 3e-6)


def test_what_others_need_is_held():
    """Who asks for the weights too gets them, and the values are weighed by these."""
    q, k, v = Tensor(QUERY), Tensor(KEY), Tensor(VALUE)
    weights = (q @ k.mT).softmax(-1)
    value = weights @ v
    assert len(plan_kernels(weights.uop, value.uop)) == 3
    np.testing.assert_allclose(value.numpy(), formula(QUERY, KEY, VALUE, 1.0), 1e-5, 1e-5)


def test_gradients():
    torch = pytest.importorskip("torch")
    arrays = [normal(2, 40, 16, seed=s) for s in range(3)]
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
    upstream = normal(2, 40, 16, seed=9)
    out = ours[0].scaled_dot_product_attention(*ours[1:], is_causal=True)
    (out * Tensor(upstream)).sum().backward()
    out = torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=True)
    (out * torch.tensor(upstream)).sum().backward()
    for mine, other in zip(ours, theirs):
        assert mine.grad is not None
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), 2e-5, 2e-5)


def test_gradients_leave_out_what_the_mask_made_zero():
    """Weights times values, and the products of three gradients."""
    heads = [Tensor(normal(2, 64, 16, seed=s), requires_grad=True) for s in range(3)]
    found = heads[0].scaled_dot_product_attention(*heads[1:], is_causal=True)
    gradients = grad((found * Tensor(normal(2, 64, 16, seed=9))).sum(), heads)
    target = get_device("CPU").capabilities
    kernels = plan_kernels(found.uop, *(g.uop for g in gradients), capabilities=target)
    sums = [[n for n in toposort(k.ast) if n.op is Op.REDUCE] for k in kernels if k.contraction]
    masked = [s for s in sums if any(n.arg == "held" for n in toposort(s))]
    assert len(masked) == 4


def test_who_sees_no_key_gets_nan_in_training_too():
    heads = [Tensor(normal(64, 16, seed=s), requires_grad=True) for s in range(3)]
    mask = Tensor.arange(64).reshape(64, 1) > Tensor.arange(64)
    found = heads[0].scaled_dot_product_attention(heads[1], heads[2], mask)
    (gradient,) = grad(found.sum(), heads[2:])
    Tensor.realize(found, gradient)
    lost = np.isnan(found.numpy())
    assert lost[0].all() and not lost[1:].any()
