"""A GPU through each of the two interfaces; without one there is nothing to test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dovetile.plugins import Selection
from dovetile_nv import plugin, selection
from dovetile_nv.device import NvDevice

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))  # for nv_kernels.py

from device_programs import BEGIN

PROBLEMS = {"RAW": selection.raw_problem, "LIBCUDA": selection.libcuda_problem}
Python = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", params=PROBLEMS)
def interface(request: pytest.FixtureRequest) -> str:
    """RAW, then LIBCUDA, where each can be used."""
    problem = PROBLEMS[request.param]()
    if problem is not None:
        pytest.skip(f"{request.param}: {problem}")
    return request.param


@pytest.fixture(scope="session")
def gpu(interface: str) -> NvDevice:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "choose", lambda: (interface, "as the test says"))
        device = NvDevice(Selection("NV", 0, plugin.COMPILERS[0]))
    assert device.interface.name == interface
    return device


@pytest.fixture
def python(interface: str, tmp_path: Path) -> Python:
    """Runs a program behind `BEGIN` in a process of its own, which ends in order and in silence."""

    def run(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-c", BEGIN + program],
            capture_output=True,
            text=True,
            env={**os.environ, "NV_INTERFACE": interface, "DEV": "NV", **variables},
            timeout=120,
        )
        assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
        return result

    return run
