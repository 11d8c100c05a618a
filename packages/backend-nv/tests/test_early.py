"""Launches that begin before the one ahead is complete: what stands before their wait."""

from __future__ import annotations

from dataclasses import replace

from gpu_kernels import compilers, disassembled, elementwise, instructions_of, source_of

from dovetile import dtypes


def product(steady: frozenset[int]):
    kernel = elementwise(lambda a, b: a * b, [dtypes.float32] * 2, lanes=4)
    return replace(kernel, steady=steady)


@disassembled
@compilers
def test_memory_that_may_still_change_is_read_behind_the_wait(compiler: str) -> None:
    words = instructions_of(compiler, product(frozenset()))
    wait = words.index("ACQBULK")
    assert words.index("PREEXIT") < wait
    loads = [n for n, word in enumerate(words) if word.startswith("LDG")]
    assert len(loads) == 2 and min(loads) > wait
    # Neither goes past other launches' writes by the way of constants.
    assert not [word for word in words if word.startswith("LDG") and "CONSTANT" in word]


@disassembled
def test_memory_that_stays_is_on_its_way_before() -> None:
    words = instructions_of("CUDA", product(frozenset({2})))
    loads = [n for n, word in enumerate(words) if word.startswith("LDG.E.128")]
    assert len(loads) == 2
    assert loads[0] < words.index("ACQBULK") < loads[1]


@compilers
def test_older_cards_wait_for_whole_launches(compiler: str) -> None:
    assert "griddepcontrol" not in source_of(compiler, product(frozenset()), "sm_80")
