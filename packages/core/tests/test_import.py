"""Importing costs little, and loads nothing that is not needed yet."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEASURE = "import time; start = time.process_time(); {}; print(time.process_time() - start)"
LOADED = "import sys; {}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
HEAVY = {"llvmlite", "scipy", "torch", "sklearn", "pandas", "pluggy", "platformdirs"}


def output(program: str) -> str:
    words = [sys.executable, "-c", program]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def seconds(statement: str) -> float:
    return min(float(output(MEASURE.format(statement))) for _ in range(3))


@pytest.mark.parametrize("statement", ["import dovetile", "from dovetile import Tensor"])
def test_nothing_heavy_is_loaded(statement):
    loaded = set(output(LOADED.format(statement)).split())
    assert "dovetile" in loaded
    assert not loaded & HEAVY
    assert not {name for name in loaded if name.startswith("dovetile_")}


def test_numpy_comes_with_the_first_tensor():
    assert "numpy" not in output(LOADED.format("import dovetile")).split()


@pytest.mark.parametrize("statement", ["import dovetile", "from dovetile import Tensor"])
def test_importing_takes_little_more_than_numpy(statement):
    # Processor time, and twice the target, since the machine may be slow.
    assert seconds(statement) - seconds("import numpy") < 0.3
