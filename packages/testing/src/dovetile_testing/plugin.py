"""The pytest plugin: the option ``--device``. The fixtures are the suite's own."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dovetile")
    group.addoption(
        "--device",
        default=None,
        metavar="NAME[:COMPILER]",
        help="the device that dovetile_testing.suite tests (default: Dovetile's default device)",
    )
