"""A real distribution, found by its entry point, passes the kit with no change to the core."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LEVELS = sorted(
    path.stem
    for path in (Path(__file__).parents[1] / "src/dovetile_testing/suite").glob("test_level*.py")
)


@pytest.mark.parametrize("level", LEVELS)
def test_the_third_party_device_passes(third_party, run, level):
    result = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs"),
        *(f"dovetile_testing.suite.{level}", "--device=NPY"),
        folders=[third_party],
        CHECK="1",
    )
    summary = result.stdout.strip().splitlines()[-1]
    assert result.returncode == 0, result.stdout
    assert int(re.search(r"(\d+) passed", summary)[1]) >= 5, summary


def test_the_doctor_knows_the_third_party(third_party, run):
    result = run("-m", "dovetile", "doctor", folders=[third_party])
    assert re.search(r"npy +dovetile-backend-npy 1\.2\.3 +0\.1 +loaded +device NPY", result.stdout)
    assert "compiler PYTHON (python): works" in result.stdout
    assert result.returncode == 0


def test_a_kernel_that_reads_out_of_bounds_is_a_fault_of_that_device(third_party, run):
    program = """
from dovetile import dtypes
from dovetile.errors import DeviceFault
from dovetile.ir.uop import UOp
from dovetile.runtime import Buffer, get_device
from dovetile_testing.kernels import elementwise, load

device = get_device("NPY")
(program,) = load(device, elementwise(lambda x: x, [dtypes.float32], dtypes.float32, 8))
target, source = Buffer(device, 32, dtypes.float32), Buffer(device, 16, dtypes.float32)
device.queue.launch(program, (target, source))
try:
    device.synchronize()
except DeviceFault as fault:
    print(fault)
device.synchronize()
"""
    result = run("-c", program, folders=[third_party])
    assert result.returncode == 0, result.stderr
    assert re.search(r"kernel 'conformance_\d+' failed: IndexError", result.stdout)
