"""Finding and compiling programs, with a compiler and a device that only count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dovetile import environment
from dovetile.runtime import counters
from dovetile.runtime.compile import (
    binary_keys,
    compile_binaries,
    compile_programs,
)


class Compiler:
    language = "text"

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.calls: list[list[str]] = []

    def available(self) -> str | None:
        return None

    def fingerprint(self) -> str:
        return f"counting-{self.version}"

    def compile(self, source: str) -> bytes:
        return source.upper().encode()

    def compile_many(self, sources: Sequence[str]) -> list[bytes]:
        self.calls.append(list(sources))
        return [self.compile(source) for source in sources]


class Device(SimpleNamespace):
    def load(self, binary: bytes, name: str) -> Any:
        self.loaded.append((name, binary))
        return f"program {name}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path):
    with environment.context(DOVETILE_CACHE_DIR=str(tmp_path)):
        yield


def device(compiler: Compiler) -> Any:
    import threading

    return Device(compiler=compiler, programs={}, programs_lock=threading.Lock(), loaded=[])


def test_each_distinct_source_is_compiled_once() -> None:
    compiler = Compiler()
    assert compile_binaries(compiler, ["a", "b", "a", "c"]) == [b"A", b"B", b"A", b"C"]
    assert compiler.calls == [["a", "b", "c"]]


def test_binaries_come_from_the_cache_in_the_next_process() -> None:
    compile_binaries(Compiler(), ["a", "b"])
    fresh = Compiler()
    before = counters().from_cache
    assert compile_binaries(fresh, ["b", "z", "a"]) == [b"B", b"Z", b"A"]
    assert fresh.calls == [["z"]]
    assert counters().from_cache == before + 2


def test_another_compiler_version_compiles_again() -> None:
    compile_binaries(Compiler("1"), ["a"])
    newer = Compiler("2")
    compile_binaries(newer, ["a"])
    assert newer.calls == [["a"]]
    assert binary_keys(Compiler("1"), ["a"]) != binary_keys(newer, ["a"])


def test_programs_are_loaded_once_for_each_name_and_source() -> None:
    target = device(Compiler())
    kernels = [("one", "a"), ("two", "b"), ("one", "a")]
    assert compile_programs(target, kernels) == ["program one", "program two", "program one"]
    assert compile_programs(target, kernels[:2]) == ["program one", "program two"]
    assert target.loaded == [("one", b"A"), ("two", b"B")]
    assert len(target.compiler.calls) == 1
