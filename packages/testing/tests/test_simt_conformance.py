"""The emulated workgroup device passes the conformance kit."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "level", ["0_plugin", "1_memory", "2_kernels", "3_operations", "4_programs"]
)
def test_level(run, level: str) -> None:
    result = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs"),
        *(f"dovetile_testing.suite.test_level{level}", "--device=SIMT"),
        folders=[],
        CHECK="1",
    )
    assert result.returncode == 0, result.stdout
