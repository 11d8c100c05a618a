"""``dovetile profile``."""

from __future__ import annotations

import sys

import pytest

from dovetile import cli, environment
from dovetile.cli.profile import report
from dovetile.errors import DeviceError
from dovetile.plugins import default_device_name
from dovetile.profiling import KernelTime, Profile, StageTime

SCRIPT = """
import sys
from helper import values
from dovetile import Tensor

print((Tensor(values) * 2 - 0.375).tolist(), sys.argv[1:], __name__)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "helper.py").write_text("values = [1.0, 2.0]")
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def test_a_script_and_its_report(script, capsys, tmp_path):
    try:
        default_device_name()
    except DeviceError:
        pytest.skip("no device is installed")
    before = list(sys.argv), list(sys.path)
    with environment.context(DOVETILE_CACHE_DIR=str(tmp_path / "cache")):
        status = cli.main(["profile", "--kernels", "3", str(script), "5", "--kernels"])
    sys.modules.pop("helper")
    assert status == 5
    assert (sys.argv, sys.path) == before
    output = capsys.readouterr().out
    assert output.startswith("[1.625, 3.625] ['5', '--kernels'] __main__\n")
    words = [line.split() for line in output.splitlines()]
    assert {"simplify", "lower", "render", "launch"} < {line[0] for line in words if line}
    (kernel,) = (line for line in words if line and line[0].startswith("kernel_"))
    assert kernel[1] == "1" and kernel[-1] == "[2]"


def test_no_such_script(capsys):
    assert cli.main(["profile", "no/such/script.py"]) == 1
    assert "[profile] there is no file 'no/such/script.py'" in capsys.readouterr().err


def test_the_report_of_a_profile():
    profile = Profile(elapsed=4.0)
    profile.stages["lower", False] = StageTime(3, 1.0, 0.5)
    profile.stages["compile", True] = StageTime(3, 6.0, 5.0)
    profile.kernels["slow"] = KernelTime("[8]", 2_000_000, 1_000_000, 10, 0.01)
    profile.kernels["fast"] = KernelTime("[4]", 1, 1, 1, 0.001)
    profile.kernels["never"] = KernelTime("[2]", 1, 1)
    lines = [" ".join(line.split()) for line in report(profile, 1).splitlines()]
    assert lines[1:5] == [
        "lower 3 1.000 s 0.500 s 25.0%",
        "compile 3 6.000 s 5.000 s in threads",
        "the script itself 3.000 s 75.0%",
        "all 4.000 s",
    ]
    assert lines[7:] == [
        "slow 10 10.000 ms 90.9% 1.000 MB 2.000 M 1.0 GB/s 2.0 GFLOP/s [8]",
        "1 others 1 1.000 ms 9.1%",
        "2 kernels 11 11.000 ms",
    ]
