"""What tests of bad input and bad circumstances share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Python = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def device_name() -> str:
    """The default device; without one there is nothing to test."""
    from dovetile.errors import DeviceError
    from dovetile.plugins import default_device_name

    try:
        return default_device_name()
    except DeviceError:
        pytest.skip("no device is installed")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The cache folder of the processes that `python` starts."""
    return tmp_path / "cache"


@pytest.fixture
def python(cache: Path, tmp_path: Path) -> Python:
    """Runs a program in a process of its own; `preexec` is called in it before Python starts."""

    def run(
        program: str, preexec: Callable[[], None] | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DOVETILE_CACHE_DIR": str(cache), **variables}
        return subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=300,
            preexec_fn=preexec,
        )

    return run
