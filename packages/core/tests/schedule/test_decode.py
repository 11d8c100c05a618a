"""A model that makes text token by token: few kernels, and each weight is read once."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("dovetile_cpu")

from graphs import DEVICE, plan_kernels
from loop_kernels import GROUPS, WIDE

from dovetile import Tensor
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp, nodes_of
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import Bind, apply_opts
from dovetile.plugins import Capabilities
from dovetile.schedule import make
from dovetile.schedule.loops import canonical
from dovetile.schedule.plan import Plan
from dovetile.schedule.realization import normalize

GPU = replace(GROUPS, threads=16)
WIDTH, HEADS, KEYS, HEAD, HIDDEN, CONTEXT = 256, 8, 2, 32, 512, 128


def of(*shape: int) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))


def normal(x: Tensor) -> Tensor:
    return x * ((x * x).mean(-1, keepdim=True) + 1e-5).rsqrt()


def block(x: Tensor, position: Tensor, caches: list[Tensor]) -> Tensor:
    """One layer with grouped heads, whose keys and values are kept."""
    mixed = (of((HEADS + 2 * KEYS) * HEAD, WIDTH) @ normal(x)).reshape(-1, HEAD)
    for cache, first in zip(caches, (HEADS, HEADS + KEYS)):
        cache[position] = mixed[first : first + KEYS].unsqueeze(0)
    keys, values = caches
    query = mixed[:HEADS].reshape(KEYS, -1, HEAD)
    seen = Tensor(np.arange(CONTEXT)) <= position
    scores = (query @ keys.permute(1, 2, 0)).masked_fill(~seen, float("-inf"))
    found = scores.softmax(-1) @ values.permute(1, 0, 2)
    x = x + of(WIDTH, WIDTH) @ found.reshape(WIDTH)
    inside = normal(x)
    gate, up = of(HIDDEN, WIDTH) @ inside, of(HIDDEN, WIDTH) @ inside
    return x + of(WIDTH, HIDDEN) @ (gate.silu() * up)


def planned(layers: int, capabilities: Capabilities = GPU) -> list[UOp]:
    x, position = of(WIDTH), Tensor(np.array([5]))
    caches = [[of(CONTEXT, KEYS, HEAD).realize() for _ in range(2)] for _ in range(layers)]
    for pair in caches:
        x = block(x, position, pair)
    roots = [x.uop, *(t.uop for pair in caches for t in pair)]
    kernels = plan_kernels(*roots, capabilities=capabilities)
    return [canonical(k.ast)[0] for k in kernels if k.ast is not None]


def test_seven_kernels_a_layer():
    # Products with the norm inside, both writes to caches, scores, weighted values, product and
    # sum, gate and up together, product and sum.
    one, two = len(planned(1)), len(planned(2))
    assert (one, two) == (7, 14)


def test_layers_are_the_same_kernels():
    # Beside the first layer, whose input is of another kind, there is nothing new.
    assert len(set(planned(4))) == len(set(planned(3)))


def test_every_weight_is_read_by_one_kernel():
    large = [
        n.arg.size
        for ast in planned(2)
        for n in nodes_of(ast)
        if n.op is Op.BUFFER and n.arg.size >= WIDTH * WIDTH
    ]
    a_layer = [(HEADS + 2 * KEYS) * HEAD * WIDTH, WIDTH * WIDTH, *[HIDDEN * WIDTH] * 3]
    assert sorted(large) == sorted(2 * a_layer)


def test_neighbouring_rows_share_what_they_are_multiplied_with():
    rows, width = 4096, 1024
    ast = canonical(plan_kernels((of(rows, width) @ of(width)).uop, capabilities=GROUPS)[0].ast)[0]
    kinds = [o.kind.name for o in heuristic(ast, GROUPS) if isinstance(o, Bind)]
    assert kinds.count("LOCAL") == 2 and "GROUP" in kinds
    scheduled = apply_opts(ast, heuristic(ast, GROUPS))
    copied = [n for n in nodes_of(scheduled) if n.op is Op.RANGE and n.arg.kind.name == "UNROLL"]
    assert 2 in [int(n.src[0].maximum) for n in copied]


def plan_of(result: Tensor, early: bool, monkeypatch, seen: list | None = None) -> Plan:
    """The plan of a result on a target of workgroups; seen: which slots are steady, by kernel."""
    found = [] if seen is None else seen
    monkeypatch.setattr(
        make, "_source_of", lambda device, ast, steady: found.append(steady) or ("k", "s", (1, 1))
    )
    monkeypatch.setattr(make, "compile_programs", lambda device, kernels: [None])
    monkeypatch.setattr(make._Code, "names", lambda self: [])
    device = SimpleNamespace(capabilities=replace(GROUPS, early_launches=early))
    return make.make_plan(normalize([result.uop]), {DEVICE: device}, DEVICE)[0]  # type: ignore


@pytest.mark.parametrize("early", [True, False])
def test_launches_of_a_plan_begin_early_where_the_target_lets_them(early: bool, monkeypatch):
    weights, x = of(WIDTH, WIDTH).realize(), of(WIDTH).realize()
    seen: list = []
    plan = plan_of(weights @ (weights @ x).contiguous(), early, monkeypatch, seen)
    assert [step.early for step in plan.steps] == [False, early]
    # The first reads what nobody writes, the second also what the first has written.
    assert [len(steady) for steady in seen] == ([2, 1] if early else [0])  # one kernel then


def test_what_is_prepared_once_stands_between_no_other_steps(monkeypatch):
    x, weights = of(2, 32, 12, 12).realize(), [of(32, 32, 3, 3).realize() for _ in range(3)]
    for w in weights:
        x = x.conv2d(w, padding=1).relu()
    steps = plan_of(x, True, monkeypatch).steps
    assert [(step.prepares, step.early) for step in steps] == [
        (True, False), (True, False), (False, False), (False, True), (False, True)
    ]  # fmt: skip


@pytest.mark.parametrize("capabilities", [GPU, WIDE])
def test_no_product_is_computed_in_the_loop_of_another(
    capabilities: Capabilities, monkeypatch: pytest.MonkeyPatch
):
    """What costs next to nothing once costs the world for every step of two sums around it."""
    for name, size in {"WIDTH": 128, "HEADS": 4, "HIDDEN": 256, "CONTEXT": 64}.items():
        monkeypatch.setitem(globals(), name, size)
    for kernel in planned(2, capabilities):
        for node in nodes_of(kernel):
            if node.op is Op.REDUCE:
                sums = [r for r in node.ranges if r.arg.kind is AxisKind.REDUCE]
                assert not sums or math.prod(r.src[0].arg for r in node.src[1:]) <= 2
