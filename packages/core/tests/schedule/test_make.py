"""Compiling the kernels of a plan: in threads, and in the thread that waits for them."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from dovetile.errors import CompileError
from dovetile.ir.uop import UOp
from dovetile.schedule import make

COUNT = 20


class Compiling:
    """Stands in for the compiler: the pool's threads wait until this one has begun."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken
        self.begun = threading.Event()
        self.here: list[str] = []

    def programs(self, device: Any, kernels: list[tuple[str, str]]) -> list[str]:
        ((name, source),) = kernels
        if threading.current_thread() is threading.main_thread():
            self.here.append(name)
            self.begun.set()
        else:
            assert self.begun.wait(10)
        if source == f"source {self.broken}":
            raise CompileError("[compile] broken")
        return [f"program of {name}"]


def programs(monkeypatch: pytest.MonkeyPatch, compiling: Compiling) -> Any:
    def source_of(device: Any, ast: UOp, steady: object) -> tuple[str, str, int]:
        return f"kernel {ast.arg}", f"source {ast.arg}", 1

    monkeypatch.setattr(make, "_source_of", source_of)
    monkeypatch.setattr(make, "compile_programs", compiling.programs)
    code = make._Code({"A": None})  # type: ignore[dict-item]
    numbers = [code.number_of("A", UOp.const(i)) for i in (*range(COUNT), 3)]
    assert numbers == [(i, 1) for i in (*range(COUNT), 3)]
    return code.programs()


def test_the_waiting_thread_compiles_what_nobody_has_begun(monkeypatch) -> None:
    compiling = Compiling()
    found = programs(monkeypatch, compiling)
    assert found == [f"program of kernel {i}" for i in range(COUNT)]
    assert compiling.here[0] == f"kernel {COUNT - 1}"


@pytest.mark.parametrize("broken", [0, COUNT - 1])
def test_what_cannot_be_compiled_is_told_wherever_it_was_tried(monkeypatch, broken) -> None:
    with pytest.raises(CompileError, match="broken"):
        programs(monkeypatch, Compiling(broken))


def test_the_interpreter_is_as_before_whatever_happens() -> None:
    before = sys.getswitchinterval()
    with pytest.raises(KeyError), make._tuned_interpreter():
        assert sys.getswitchinterval() < before
        raise KeyError
    assert sys.getswitchinterval() == before
