"""Broken distributions beside a good one: the program goes on, and the doctor tells."""

from __future__ import annotations

import pytest

HEADER = "from dovetile.plugins import *\nDOVETILE_PLUGIN_API = PLUGIN_API\n"
# Uses the third-party device for real: kernel, compiler and queue.
COMPUTE = "from dovetile.cli.self_test import *; check(get_device('NPY')); print('went on')"

COMPILER = """
from dovetile.plugins import *
DOVETILE_PLUGIN_API = PLUGIN_API

class Compiler:
    language = "python"
    def fingerprint(self): return "broken"
    def available(self): return None
    def compile_many(self, sources): return [self.compile(source) for source in sources]
    def compile(self, source):
        {body}

@hookimpl
def dovetile_compilers():
    from dovetile_npy.plugin import _renderer
    return [CompilerSpec("{name}", "NPY", "python", lambda c: Compiler(), _renderer)]
"""


def compiler(body: str, name: str = "BROKEN") -> str:
    """A plugin with a compiler of that name for the third party's device."""
    return COMPILER.format(body=body, name=name)


BROKEN = {
    "importerror": ("import missing_module_here", "No module named 'missing_module_here'"),
    "exits": ("raise SystemExit('I quit')", "SystemExit: I quit"),
    "newer": ("DOVETILE_PLUGIN_API = (7, 0)", "is written for plugin API 7.0, and this core has"),
    "twin": (
        HEADER
        + "@hookimpl\ndef dovetile_devices():\n    return [DeviceSpec('NPY', lambda: ProbeResult(1)"
        ", lambda selection: None, ())]",
        "device NPY is registered by both npy (dovetile-backend-npy 1.2.3) and twin (dovetile-twin",
    ),
    "hook": (HEADER + "@hookimpl\ndef dovetile_devies(): return []", "there is no hook"),
}


CRASHES = {
    "RAISES": ("raise KeyError('inside the compiler')", "KeyError: 'inside the compiler'"),
    "NOTHING": ("return b'return 3'", "SyntaxError"),
    "ABORTS": ("import os; os.abort()", "killed by signal 6"),
    "EMPTY": ("return b''", "the binary has no kernel 'self_test'"),
}

BAD_PROBE = (
    HEADER + "def probe(): raise OSError('no driver')\n"
    "@hookimpl\ndef dovetile_devices():\n"
    "    return [DeviceSpec('BAD', probe, lambda selection: None, (), priority=9)]"
)


@pytest.fixture(scope="module")
def doctor(tmp_path_factory, third_party, together) -> str:
    """What the doctor says of the third-party device with all that is broken beside it at once."""
    sources = {name: source for name, (source, _) in BROKEN.items()}
    sources["bad"] = BAD_PROBE
    sources |= {name.lower(): compiler(body, name) for name, (body, _) in CRASHES.items()}
    folder = tmp_path_factory.mktemp("broken")
    result = together(folder, sources, ["-m", "dovetile", "doctor"], third_party)
    assert result.returncode == 0, result.stderr
    assert "compiler PYTHON (python): works" in result.stdout
    return result.stdout


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_stops_nobody_and_the_doctor_tells(
    distribution, third_party, run, doctor, name
):
    source, message = BROKEN[name]
    folders = [distribution(name, source), third_party]
    assert run("-c", COMPUTE, folders=folders).stdout == "went on\n"
    assert message in doctor


def test_a_probe_that_raises(distribution, third_party, run, doctor):
    folders = [distribution("bad", BAD_PROBE), third_party]
    assert run("-c", COMPUTE, folders=folders).stdout == "went on\n"
    automatic = "from dovetile.plugins import default_device_name as name; print(name())"
    assert "BAD" not in run("-c", automatic, folders=folders).stdout
    explicit = run("-c", automatic, folders=folders, DEV="BAD")
    assert explicit.returncode == 1
    assert "BAD cannot be used here: its probe raised OSError: no driver" in explicit.stderr
    assert "BAD: not usable" in doctor


@pytest.mark.parametrize("name", CRASHES)
def test_a_compiler_that_crashes(distribution, third_party, run, doctor, name):
    body, message = CRASHES[name]
    folders = [distribution("extra", compiler(body, name)), third_party]
    # It is another plugin's compiler for the device, so it is not taken unless named.
    assert run("-c", COMPUTE, folders=folders).stdout == "went on\n"
    (line,) = (line for line in doctor.splitlines() if f"compiler {name} " in line)
    assert "BROKEN: its self-test" in line and message in line


def test_a_compiler_that_raises_is_a_compile_error(distribution, third_party, run):
    source = compiler("raise KeyError('inside the compiler')")
    folders = [distribution("extra", source), third_party]
    program = """
from dovetile import dtypes
from dovetile.errors import CompileError
from dovetile.runtime import get_device
from dovetile_testing.kernels import elementwise, load

kernel = elementwise(lambda x: x, [dtypes.float32], dtypes.float32, 8)
try:
    load(get_device("NPY:BROKEN"), kernel)
except CompileError as error:
    print(error)
load(get_device("NPY"), kernel)
"""
    result = run("-c", program, folders=folders)
    assert result.returncode == 0, result.stderr
    assert "crashed with KeyError: 'inside the compiler'; DEV=DEVICE:COMPILER" in result.stdout


def test_a_compiler_that_is_not_available(distribution, third_party, run):
    source = compiler("pass").replace("_renderer)]", "_renderer, lambda: 'pip install it')]")
    folders = [distribution("extra", source), third_party]
    assert (
        "not available: pip install it" in run("-m", "dovetile", "doctor", folders=folders).stdout
    )
    explicit = run("-c", COMPUTE.replace("'NPY'", "'NPY:BROKEN'"), folders=folders)
    assert "NPY:BROKEN: BROKEN is not available: pip install it" in explicit.stderr
