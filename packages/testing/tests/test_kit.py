"""The kit itself: a backend that is wrong fails, and says where."""

from __future__ import annotations

import pytest

# The third party's device under another name, with one thing wrong.
WRONG = """
from dovetile.plugins import *
from dovetile_npy import plugin as good
DOVETILE_PLUGIN_API = PLUGIN_API
{top}

def renderer(capabilities):
    from dovetile.ir.ops import Op
    from dovetile_npy import renderer as r
    {renderer}
    return r.PythonRenderer()

def open_(selection):
    from dovetile_npy.device import NumpyDevice
    device = NumpyDevice(selection)
    {device}
    return device

@hookimpl
def dovetile_devices():
    compiler = CompilerSpec("PYTHON", "WRONG", "python", good._compiler, renderer)
    return [DeviceSpec("WRONG", lambda: ProbeResult(1), open_, (compiler,))]
"""


def wrong(top: str = "pass", renderer: str = "pass", device: str = "pass") -> str:
    return WRONG.format(top=top, renderer=renderer, device=device)


@pytest.mark.parametrize(
    ("source", "level", "test"),
    [
        (wrong(top="import time; time.sleep(0.15)"), "level0_plugin", "test_importing_the_plugin"),
        (wrong(device="device.name = 'OTHER'"), "level0_plugin", "test_the_device_says_who"),
        (wrong(device="device.copy_in = lambda a, c: None"), "level1_memory", "comes_out"),
        (wrong(renderer="r.INFIX[Op.ADD] = '-'"), "level2_kernels", "test_arithmetic[ADD"),
        (wrong(renderer="del r.FUNCTIONS[Op.MAX]"), "level2_kernels", "test_arithmetic[MAX"),
    ],
)
def test_a_wrong_backend_fails(distribution, third_party, run, source, level, test):
    folders = [distribution("wrong", source), third_party]
    result = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "--pyargs"),
        *(f"dovetile_testing.suite.test_{level}", "--device=WRONG"),
        folders=folders,
    )
    assert result.returncode == 1, result.stdout
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert failed and any(test in line for line in failed)
    assert len(failed) < 60


def test_an_unknown_device_is_told(third_party, run):
    result = run(
        *("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--pyargs"),
        *("dovetile_testing.suite.test_level1_memory", "--device=NPX"),
        folders=[third_party],
    )
    assert result.returncode == 1
    assert "did you mean 'NPY'?" in result.stdout


def test_a_skip_for_another_reason_is_a_failure(tmp_path, third_party, run):
    suite = "from dovetile_testing.suite.conftest import *\n"
    (tmp_path / "conftest.py").write_text(suite, encoding="utf-8")
    (tmp_path / "test_skips.py").write_text(
        "import pytest\n"
        "def test_declared(requires): requires(False, 'no such thing')\n"
        "def test_undeclared(): pytest.skip('no time')\n"
        "@pytest.mark.skip(reason='never')\ndef test_marked(): pass\n",
        encoding="utf-8",
    )
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--device=NPY", "test_skips.py")
    result = run(*arguments, folders=[third_party])
    # A mark skips at setup, which pytest counts as an error.
    assert "1 failed, 1 skipped, 1 error" in result.stdout
    assert "skipped for something that is not a capability" in result.stdout
