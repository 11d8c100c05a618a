"""Random graphs of movement, elementwise and reduce operations against the reference evaluator."""

from __future__ import annotations

import pytest
from graphs import expect, graphs
from hypothesis import HealthCheck, given, settings

from dovetile import dtypes
from dovetile.ir.uop import UOp

pytest.importorskip("dovetile_cpu")

_slow = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@_slow
@given(roots=graphs())
def test_integers(roots: list[UOp]) -> None:
    expect(*roots)


@_slow
@given(roots=graphs(dtypes.float32))
def test_floats(roots: list[UOp]) -> None:
    expect(*roots, exact=False)
