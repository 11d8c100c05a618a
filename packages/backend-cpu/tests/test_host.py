"""What is found out about the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetile import environment
from dovetile_cpu import host


def test_this_machine() -> None:
    found = host.capabilities()
    assert found.architecture.startswith(host.machine())
    assert found.threads == host.threads() >= 1
    assert found.vector_bytes in (16, 32, 64)
    assert list(found.cache_bytes) == sorted(found.cache_bytes)
    assert found.host_visible and found.parallel_axes == ("THREAD",)
    assert host.unsupported() is None
    assert host.memory_bytes() > 1 << 26


def test_threads_can_be_chosen() -> None:
    with environment.context(DOVETILE_THREADS=3):
        assert host.threads() == 3
        assert host.capabilities().threads == 3
    with environment.context(DOVETILE_THREADS=0):
        assert host.threads() == host.usable_cores()


@pytest.mark.parametrize(
    ("flags", "vectors", "fused"),
    [
        ({"sse2"}, (16, 16), False),
        ({"sse2", "avx2", "fma"}, (32, 16), True),
        ({"avx2", "fma", "avx512f"}, (64, 32), True),
    ],
)
def test_vectors_follow_the_features(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], vectors: tuple[int, int], fused: bool
) -> None:
    monkeypatch.setattr(host, "features", lambda: frozenset(flags))
    monkeypatch.setattr(host, "machine", lambda: "x86_64")
    found = host.capabilities_for.__wrapped__(2)
    assert (found.vector_bytes, found.vector_registers) == vectors
    assert ("MULACC" in found.native_ops) == fused
    assert "float16" not in found.arithmetic_dtypes


def test_caches_are_read_from_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for index, (kind, level, size) in enumerate(
        [
            ("Data", 1, "48K"),
            ("Instruction", 1, "32K"),
            ("Unified", 2, "2M"),
            ("Unified", 3, "1024"),
        ]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "type").write_text(f"{kind}\n")
        (folder / "level").write_text(f"{level}\n")
        (folder / "size").write_text(f"{size}\n")
    monkeypatch.setattr(host, "_CACHES", tmp_path)
    assert host.cache_bytes.__wrapped__() == (48 << 10, 2 << 20, 1024)
    monkeypatch.setattr(host, "_CACHES", tmp_path / "missing")
    assert host.cache_bytes.__wrapped__() == host._DEFAULT_CACHES


def test_other_systems_are_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "machine", lambda: "riscv64")
    assert "no code for riscv64" in (host.unsupported() or "")
    monkeypatch.setattr(host.os, "name", "nt")
    assert "not supported yet" in (host.unsupported() or "")
