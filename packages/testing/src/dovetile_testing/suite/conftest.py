"""What all levels share: the device under test, and the rule about skips."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
import pytest
from pluggy import Result

from dovetile import environment
from dovetile.plugins import Capabilities, DeviceSpec, default_device_name
from dovetile.plugins.selection import Request, manager
from dovetile.runtime import Device, get_device

SKIP_PREFIX = "capability: "


@pytest.fixture(scope="package")
def device_name(request: pytest.FixtureRequest) -> str:
    """The name to write after ``DEV=``."""
    return request.config.getoption("--device") or default_device_name()


@pytest.fixture(scope="package", autouse=True)
def default_device(device_name: str) -> Generator[None]:
    """Makes the device under test the default one."""
    with environment.context(DEV=device_name):
        yield


@pytest.fixture(scope="package")
def device(device_name: str, default_device: None) -> Device:
    return get_device(device_name)


@pytest.fixture(scope="package")
def spec(device_name: str) -> DeviceSpec:
    return manager().spec(Request.parse(device_name).device)


@pytest.fixture(scope="package")
def capabilities(device: Device) -> Capabilities:
    return device.capabilities


@pytest.fixture
def requires(capabilities: Capabilities) -> Callable[[bool, str], None]:
    """``requires(condition, reason)`` skips unless a declared capability allows the test."""

    def check(condition: bool, reason: str) -> None:
        if not condition:
            pytest.skip(SKIP_PREFIX + reason)

    return check


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(1234)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Result[pytest.TestReport]]:
    """A gap that is not declared is a failure, not a skip."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if SKIP_PREFIX not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped for something that is not a capability: {reason}"
