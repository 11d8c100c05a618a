"""Rules that hold for all of the core's source."""

from __future__ import annotations

import re
from pathlib import Path

import dovetile

SOURCE = Path(dovetile.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# Devices, vendors, their compilers and the packages that bring them. What the core must know of a
# target, the target says in its Capabilities. ("llvm_ir" and "LLVM IR" name a language.)
FORBIDDEN = re.compile(
    r"""cuda | nvidia | nvrtc | ptx\b | cudnn | cublas | \bnv\b | \bsm_\d+
    | \bamd\b | amdgpu | amdgcn | rocm | \bhip\b | \bgfx\d+ | \bkfd\b
    | \bmetal\b | \bmsl\b | apple | \bmps\b
    | intel\b | \barm\b | aarch64 | x86 | avx | \bneon\b | opencl | vulkan | webgpu | qualcomm
    | llvmlite | clang | \bgcc\b
    | dovetile_(cpu|nv|amd|metal|npy) | backend[-_](cpu|nv|amd|metal) | ["']CPU\b""",
    re.IGNORECASE | re.VERBOSE,
)


def test_the_core_names_no_device_vendor_or_backend() -> None:
    assert len(FILES) > 10
    found = [
        f"{path.relative_to(SOURCE)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert found == []


def test_the_rule_would_notice() -> None:
    for text in ('if device == "CPU":', "import dovetile_cpu", "renders CUDA", "for an NVIDIA gpu"):
        assert FORBIDDEN.search(text), text
    for text in ("LlvmIrRenderer writes LLVM IR", "a CPU's cache", "harmless", "hips", "environ"):
        assert not FORBIDDEN.search(text), text
