"""Passes of plugins run at the end of their stage, and their failures name them."""

from __future__ import annotations

import sys

import pytest

from dovetile.errors import PluginError
from dovetile.ir.uop import UOp
from dovetile.plugins import Capabilities, passes

pytest.importorskip("dovetile_cpu")

TARGET = Capabilities(architecture="test")
SOURCE = """
    from dovetile import dtypes
    from dovetile.ir.ops import Op
    from dovetile.ir.rewrite import substitute
    from dovetile.ir.uop import UOp

    stages = []

    def three_is_four(graph, capabilities):
        stages.append("tensor")
        three, four = (UOp.const(float(n), dtypes.float32) for n in (3, 4))
        return substitute(graph, {three: four})

    def look(stage):
        def run(graph, capabilities):
            stages.append(stage)
            assert graph.op is Op.SINK
            return graph
        return run

    def fail(graph, capabilities):
        raise RuntimeError("no idea")

    def lose(graph, capabilities):
        return None

    @hookimpl
    def dovetile_passes():
        return [
            PassSpec("three-is-four", "tensor", lambda: three_is_four),
            *(
                PassSpec(f"look-{s}", s, lambda s=s: look(s))
                for s in ("schedule", "optimize", "lower")
            ),
            PassSpec("fail", "lower", lambda: fail, accepts=lambda c: c.architecture == "fails"),
            PassSpec("lose", "lower", lambda: lose, accepts=lambda c: c.architecture == "loses"),
        ]
"""


def test_every_stage_runs_its_passes(plugins, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    from dovetile import Tensor, environment

    registry = plugins(rewriter=SOURCE)
    monkeypatch.setattr(passes, "registry", lambda: registry)
    with environment.context(DOVETILE_CACHE_DIR=str(tmp_path / "cache")):
        # No other test has this expression: a plan made before would be found again.
        found = (Tensor([1.25, 2.5, 7.75]) * 0.625 + 3.0).tolist()
    assert found == [x * 0.625 + 4.0 for x in (1.25, 2.5, 7.75)]
    rewriter = sys.modules[f"plugin_{tmp_path.name}_rewriter"]
    assert rewriter.stages == ["tensor", "schedule", "optimize", "lower"]


def test_a_failing_pass_is_named(plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = plugins(rewriter=SOURCE)
    monkeypatch.setattr(passes, "registry", lambda: registry)
    graph = UOp.sink(UOp.const(1))
    with pytest.raises(PluginError, match="pass fail of rewriter .* failed: RuntimeError: no idea"):
        passes.run_passes("lower", graph, Capabilities(architecture="fails"))
    with pytest.raises(PluginError, match="pass lose of rewriter .* returned NoneType"):
        passes.run_passes("lower", graph, Capabilities(architecture="loses"))
    assert passes.run_passes("lower", graph, TARGET) is graph


def test_passes_are_part_of_the_key(plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = plugins(rewriter=SOURCE)
    monkeypatch.setattr(passes, "registry", lambda: registry)
    key = passes.passes_key(TARGET)
    assert [entry.split("/")[:2] for entry in key] == [
        ["tensor", "three-is-four"],
        ["schedule", "look-schedule"],
        ["optimize", "look-optimize"],
        ["lower", "look-lower"],
    ]
    assert key != passes.passes_key(Capabilities(architecture="fails"))
