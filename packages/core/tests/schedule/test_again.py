"""What short contractions give is computed again block by block where matrix units do that."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import interpreter
import numpy as np
import pytest
from group_units import target
from loop_kernels import GROUPS, numbers

from dovetile import Tensor, dtypes
from dovetile.dtypes import DType
from dovetile.gradient import gradients
from dovetile.ir.ops import Op
from dovetile.ir.rewrite import substitute
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower import lower
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import apply_opts
from dovetile.optimize.use_group_unit import FollowGroupUnit, UseGroupUnit
from dovetile.plugins import Capabilities
from dovetile.schedule.dependencies import Kernel
from dovetile.schedule.kernels import KernelMaker
from dovetile.schedule.loops import canonical
from dovetile.schedule.make import schedule

UNITS = target("stores")
WIDTH = 64


def tensors(length: int, dtype: DType = dtypes.bfloat16) -> list[Tensor]:
    """Queries, keys, values and the gradient by the result, without memory."""
    shape = (1, length, WIDTH)
    views = [UOp.buffer(math.prod(shape), dtype, "HOST").reshape(shape) for _ in range(4)]
    return [Tensor(0.0)._wrap(view) for view in views]


def training(given: list[Tensor], causal: bool = False, plain: bool = False) -> UOp:
    """The result of attention, and its gradients."""
    query, key, value, upstream = given
    if plain:
        found = (query @ key.mT).softmax(-1) @ value
    else:
        found = query.scaled_dot_product_attention(key, value, is_causal=causal)
    nodes = gradients(found.uop, upstream.uop, [x.uop for x in given[:3]])
    sink = UOp.sink(found.uop, *(node for node in nodes if node is not None))
    while detached := [n for n in nodes_of(sink) if n.op is Op.AFTER and len(n.src) == 1]:
        sink = substitute(sink, {detached[0]: detached[0].src[0]})
    return sink


def scheduled(sink: UOp, capabilities: Capabilities) -> tuple[list[Kernel], KernelMaker, UOp]:
    devices: Any = {"HOST": SimpleNamespace(capabilities=capabilities)}
    return schedule(sink, devices, "HOST")


def largest(kernels: list[Kernel]) -> int:
    return max(b.arg.size for k in kernels for b in (*k.reads, *k.writes))


def test_nothing_of_the_size_of_all_scores_is_held():
    """Maxima and sums of rows, the result, a mean of each row, and three gradients."""
    for length in (128, 256):
        kernels, _, _ = scheduled(training(tensors(length)), UNITS)
        assert [len(k.roots) for k in kernels] == [2, 1, 1, 1, 1, 1]
        assert largest(kernels) == length * WIDTH


def test_the_plain_formula():
    kernels, _, _ = scheduled(training(tensors(256), plain=True), UNITS)
    assert largest(kernels) == 256 * WIDTH


@pytest.mark.parametrize(
    ("capabilities", "dtype"), [(GROUPS, dtypes.bfloat16), (UNITS, dtypes.float32)]
)
def test_without_a_unit_they_are_held(capabilities: Capabilities, dtype: DType):
    kernels, _, _ = scheduled(training(tensors(256, dtype)), capabilities)
    assert largest(kernels) == 256 * 256


def test_what_is_asked_for_is_held():
    query, key, value, _ = tensors(256)
    weights = (query.float() @ key.float().mT).softmax(-1)
    first, second = weights.bfloat16() @ value, weights.bfloat16() @ key
    sink = UOp.sink(weights.uop, first.uop, second.uop)
    while detached := [n for n in nodes_of(sink) if n.op is Op.AFTER and len(n.src) == 1]:
        sink = substitute(sink, {detached[0]: detached[0].src[0]})
    kernels, _, _ = scheduled(sink, UNITS)
    assert largest(kernels) == 256 * 256


def reference(arrays: list[np.ndarray], causal: bool) -> list[np.ndarray]:
    query, key, value, upstream = (a.astype(np.float64).reshape(-1, WIDTH) for a in arrays)
    scale = 1 / math.sqrt(WIDTH)
    scores = query @ key.T * scale
    if causal:
        scores[np.triu_indices(len(scores), 1)] = -np.inf
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    result, by_weight = weights @ value, upstream @ value.T
    by_score = weights * (by_weight - (result * upstream).sum(1, keepdims=True)) * scale
    return [result, by_score @ key, by_score.T @ query, weights.T @ upstream]


@pytest.mark.parametrize("copies", ["stores", "boxes"])
def test_causal_and_ragged(copies: str):
    """Of 72 queries and keys, in blocks of 64, the second block overlaps the first."""
    capabilities, given = target(copies), tensors(72)
    sink = training(given, causal=True)
    kernels, maker, roots = scheduled(sink, capabilities)
    arrays = [numbers(72 * WIDTH, dtypes.bfloat16, seed) for seed in range(4)]
    memory = {t.uop.src[0]: a for t, a in zip(given, arrays)}
    products = []
    for kernel in kernels:
        assert kernel.ast is not None
        ast, buffers = canonical(kernel.ast)
        for b in buffers:
            memory.setdefault(b, np.full(b.arg.size, 77, dtypes.to_numpy(b.dtype)))
        opts = heuristic(ast, capabilities)
        products += [type(o) for o in opts if isinstance(o, (UseGroupUnit, FollowGroupUnit))]
        interpreter.run(
            lower(apply_opts(ast, opts), capabilities), [memory[buffer] for buffer in buffers]
        )
    assert products.count(UseGroupUnit) == 5 and products.count(FollowGroupUnit) == 4
    for root, expected in zip(roots.src, reference(arrays, causal=True)):
        found = memory[maker.buffers[root]].astype(np.float64).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0.03, atol=0.01)
