"""Level 0: the plugin itself. Needs no hardware."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from dovetile.plugins import PLUGIN_API, Capabilities, DeviceSpec, ProbeResult, registry
from dovetile.plugins.loader import PluginRecord
from dovetile.plugins.selection import Request, availability, manager
from dovetile.runtime import Device

# Imports what every program with Dovetile has imported anyway, then the plugin.
IMPORT = """
import json, sys, time
import numpy, dovetile, dovetile.plugins.loader

def libraries():
    try:
        with open("/proc/self/maps") as maps:
            return {line.split()[-1] for line in maps if ".so" in line}
    except OSError:
        return set()

before, start = libraries(), time.perf_counter()
__import__(sys.argv[1])
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(libraries() - before)]))
"""
# Extension modules of Python are no drivers.
EXTENSION_MARKS = (".cpython-", ".abi3.so", "/lib-dynload/")


@pytest.fixture
def record(spec: DeviceSpec) -> PluginRecord:
    return registry().owner("device", spec.name)


def _import_alone(module: str) -> tuple[float, list[str]]:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT, module], capture_output=True, text=True, check=True
    )
    return tuple(json.loads(result.stdout.splitlines()[-1]))


def test_importing_the_plugin_is_cheap_and_loads_no_library(record: PluginRecord) -> None:
    module = record.module.partition(":")[0]
    measured = [_import_alone(module) for _ in range(3)]
    assert min(seconds for seconds, _ in measured) < 0.1
    libraries = [
        library
        for library in measured[0][1]
        if not any(mark in library for mark in EXTENSION_MARKS)
    ]
    assert libraries == [], "load libraries in `probe` or `open`, not when the plugin is imported"


def test_the_plugin_is_found_and_states_its_api(record: PluginRecord) -> None:
    assert record.error is None
    assert record.api == PLUGIN_API
    assert record.version != "-"


def test_the_spec_is_a_value(spec: DeviceSpec) -> None:
    assert hash(spec) == hash(spec)
    assert spec.compilers
    for compiler in spec.compilers:
        assert compiler.language
        assert compiler.language == compiler.language.lower()


def test_every_name_leads_to_the_device(spec: DeviceSpec) -> None:
    for name in (spec.name, *spec.aliases):
        assert manager().spec(name) is spec


def test_probing_is_cheap(spec: DeviceSpec) -> None:
    spec.probe()
    start = time.perf_counter()
    result = spec.probe()
    assert time.perf_counter() - start < 0.5
    assert isinstance(result, ProbeResult)
    assert result.count > 0


def test_compilers_say_whether_they_are_available(spec: DeviceSpec, device: Device) -> None:
    for compiler in spec.compilers:
        reason = availability(compiler)
        assert reason is None or (isinstance(reason, str) and reason), compiler.name
        assert reason is None or "raised" not in reason


def test_the_device_says_who_it_is(device: Device, device_name: str, spec: DeviceSpec) -> None:
    assert Request.parse(device.name).device == spec.name
    assert Request.parse(device.name).index == Request.parse(device_name).index
    assert isinstance(device.capabilities, Capabilities)
    assert manager().open(device.name) is device


def test_the_compiler_has_a_fingerprint(device: Device) -> None:
    fingerprint = device.compiler.fingerprint()
    assert fingerprint and fingerprint == device.compiler.fingerprint()
    assert device.compiler.language == device.renderer.language
