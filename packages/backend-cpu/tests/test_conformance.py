"""The CPU passes the conformance kit, with each of its compilers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dovetile_cpu import clang_compiler


@pytest.mark.parametrize(
    "level", ["0_plugin", "1_memory", "2_kernels", "3_operations", "4_programs"]
)
@pytest.mark.parametrize("compiler", ["LLVM", "CLANG"])
def test_level(tmp_path, compiler: str, level: str) -> None:
    if compiler == "CLANG" and (reason := clang_compiler.available()):
        pytest.skip(reason)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs"),
            *(f"dovetile_testing.suite.test_level{level}", f"--device=CPU:{compiler}"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "DOVETILE_CACHE_DIR": str(tmp_path / "cache"), "CHECK": "1"},
    )
    assert result.returncode == 0, result.stdout
