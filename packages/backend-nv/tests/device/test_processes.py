"""Faults, several processes, and what the doctor says of a real GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from device_programs import BEGIN

FAULT = """
adds()
gpu.queue.launch(load("NAME"), (out,), (0x123456789000,), (1,), (32,))
start = time.perf_counter()
try:
    gpu.synchronize()
    print("no fault")
except DeviceFault as error:
    print(time.perf_counter() - start, error)
try:
    adds()
    print("goes on")
except DeviceError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["wild", "trapped"])
def test_a_kernel_that_fails_tells_why_and_the_process_ends_in_order(
    python, interface: str, name: str
) -> None:
    text, after = python(FAULT.replace("NAME", name)).stdout.splitlines()
    seconds, _, message = text.partition(" ")
    assert float(seconds) < 10
    assert f"the last kernels were add, {name}" in message
    if interface == "RAW":
        cause = "0x123456789000 was written" if name == "wild" else "a trap"
        assert cause in message
        assert after == "goes on"
    else:
        assert "libcuda says: " in message
        assert "cannot be used again in this process" in after


FORK = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # "use of fork() may lead to deadlocks"
adds()
child = os.fork()
if not child:
    try:
        adds()
        os._exit(1)
    except DeviceError as error:
        os._exit(7 if str(error).startswith("[fork]") else 2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
adds()
"""


def test_the_child_of_a_fork_is_refused_and_its_parent_goes_on(python) -> None:
    python(FORK)


CHILDREN = """
from dovetile import Tensor
x = np.random.default_rng(int(sys.argv[1])).standard_normal((512, 512)).astype(np.float32)
for _ in range(50):
    adds()
    y = Tensor(x) @ Tensor(x)
np.testing.assert_allclose(y.numpy(), x @ x, rtol=1e-3, atol=1e-3)
"""


def test_two_processes_at_once(interface: str) -> None:
    variables = {**os.environ, "NV_INTERFACE": interface, "DEV": "NV"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN + CHILDREN, str(number)],
            stderr=subprocess.PIPE,
            env=variables,
            text=True,
        )
        for number in range(2)
    ]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert (child.returncode, errors) == (0, "")


def test_the_doctor_says_how_the_gpu_is_reached(interface: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "dovetile", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "NV_INTERFACE": interface, "DEV": "NV"},
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"NV: usable, over {interface}: as NV_INTERFACE says" in result.stdout
    assert re.search(r"compiler CUDA \(cuda\): (works|not available)", result.stdout)


SANITIZED = """
from dovetile import Tensor
random = np.random.default_rng(0)
x = random.standard_normal((64, 200)).astype(np.float32)
h = random.standard_normal((128, 64)).astype(np.float16)
np.testing.assert_allclose(Tensor(x).sum(0).numpy(), x.sum(0), rtol=1e-4, atol=1e-4)
np.testing.assert_allclose(Tensor(x).softmax(-1).sum().numpy(), 64, rtol=1e-4)
np.testing.assert_allclose((Tensor(x).T @ Tensor(x)).numpy(), x.T @ x, rtol=1e-3, atol=1e-3)
np.testing.assert_allclose((Tensor(h) @ Tensor(h).T).numpy(), h @ h.T, rtol=1e-2, atol=1e-1)
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_kernels_pass_the_sanitizer(tool: str, tmp_path: Path) -> None:
    """It sees what goes through libcuda."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    program = tmp_path / "program.py"
    program.write_text(BEGIN + SANITIZED)
    result = subprocess.run(
        [sanitizer, f"--tool={tool}", "--error-exitcode=9", sys.executable, str(program)],
        capture_output=True,
        text=True,
        env={**os.environ, "NV_INTERFACE": "LIBCUDA", "DEV": "NV"},
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
