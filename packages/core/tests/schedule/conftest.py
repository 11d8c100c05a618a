"""What is planned, and how many kernels there are, is told for a target like a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dovetile import environment


@pytest.fixture(scope="package", autouse=True)
def default_device() -> Iterator[None]:
    """The CPU, whatever device the tests are run with; the compiler may still be chosen."""
    if (environment.DEV.value or "CPU").upper().startswith("CPU"):
        yield
    else:
        with environment.context(DEV="CPU"):
            yield
