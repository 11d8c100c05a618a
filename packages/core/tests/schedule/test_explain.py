"""The printed stages of a graph."""

from __future__ import annotations

import pytest
from graphs import CAPABILITIES, buffer

from dovetile.ir.ops import Op
from dovetile.ir.printer import parse_graph
from dovetile.ir.uop import toposort
from dovetile.render.host import HostCStyleRenderer
from dovetile.schedule.explain import explain


class Target:
    capabilities = CAPABILITIES
    renderer = HostCStyleRenderer(CAPABILITIES)


def test_every_stage_is_there() -> None:
    x = buffer((16, 40))
    explanation = explain([x.alu(Op.EXP2).reduce(Op.ADD, 1)], Target())
    (kernel,) = explanation.kernels
    assert [n.op for n in toposort(parse_graph(explanation.graph))][-1] is Op.SINK
    loops = toposort(parse_graph(kernel.loops))
    assert sorted(n.src[0].arg for n in loops if n.op is Op.RANGE) == [16, 40]
    assert "Bind(" in kernel.opts and "VECTOR" in kernel.optimized
    assert "    STORE(" in kernel.program and "REDUCE(" not in kernel.program
    assert "kernel_0" in kernel.source
    text = str(explanation)
    assert text.index("-- simplified") < text.index("-- kernel 0: loops") < text.index(": source")


def test_kernels_come_in_order() -> None:
    x = buffer((1 << 16,))
    first, second = explain([x.reduce(Op.ADD, 1)], Target()).kernels
    assert "kernel_0" in first.source and "kernel_1" in second.source


def test_nothing_needs_to_run() -> None:
    pytest.importorskip("dovetile_cpu")
    x = buffer((8,))  # a BUFFER without memory
    assert len(explain([x + 1.0]).kernels) == 1
