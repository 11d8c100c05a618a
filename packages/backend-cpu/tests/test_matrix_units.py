"""The matrix units of this processor: declared where usable, used, and right."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from dovetile import Tensor, dtypes
from dovetile.lower import lower
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import apply_opts
from dovetile.plugins import open_device
from dovetile.plugins.matrix_unit import MatrixUnit
from dovetile.runtime import Device
from dovetile.schedule.loops import canonical
from dovetile.schedule.make import schedule
from dovetile.schedule.realization import normalize
from dovetile_cpu import host, llvm_compiler, matrix_units

UNITS = {**matrix_units.TILES, **matrix_units.DOTS}


def only(name: str, monkeypatch: pytest.MonkeyPatch) -> Device:
    """The device as if it had this one unit, cheap enough to be taken.

    Schedules are remembered for a device: shapes of two units must differ.
    """
    known = {unit.name for unit in matrix_units.available()}
    if name not in known:
        pytest.skip(f"needs a processor with {name}; {host.model()} has {sorted(known) or 'none'}")
    device = open_device("CPU:LLVM")
    units = (replace(UNITS[name], cycles=0.01),)
    monkeypatch.setattr(device, "capabilities", replace(device.capabilities, matrix_units=units))
    return device


def numbers(random: np.random.Generator, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    if dtype == "bfloat16":
        return random.standard_normal(shape).astype(ml_dtypes.bfloat16)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def product(device: Device, unit: MatrixUnit, a: np.ndarray, b: np.ndarray, layout: str):
    x = Tensor(a.T.copy() if layout[0] == "t" else a, device=device.name)
    y = Tensor(b.T.copy() if layout[1] == "t" else b, device=device.name)
    x, y = (x.T if layout[0] == "t" else x), (y.T if layout[1] == "t" else y)
    wide = getattr(dtypes, unit.accumulator)
    return (x.cast(wide) @ y.cast(wide)).numpy()


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("shape", [(64, 128, 64), (33, 37, 50), (16, 3, 200)])
def test_products_of_every_layout(
    name: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, unit = only(name, monkeypatch), UNITS[name]
    m, k, n = shape[0] + list(UNITS).index(name), *shape[1:]
    random = np.random.default_rng(m)
    for layout in map("".join, itertools.product("nt", repeat=2)):
        a, b = numbers(random, unit.a, (m, k)), numbers(random, unit.b, (k, n))
        found = product(device, unit, a, b, layout)
        a, b = a.astype(np.float64), b.astype(np.float64)
        if unit.accumulator == "int32":
            np.testing.assert_array_equal(found, a @ b)
        else:
            # Products are exact in float32; what is lost is lost in their sum.
            bound = 2.0**-22 * k * (abs(a) @ abs(b)) + 1e-30
            assert (abs(found - a @ b) <= bound).all()


@pytest.mark.parametrize("name", UNITS)
def test_the_instruction_is_in_the_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device, unit = only(name, monkeypatch), UNITS[name]
    n = 70 + list(UNITS).index(name)
    random = np.random.default_rng(0)
    x, y = (Tensor(numbers(random, t, (n, n)), device=device.name) for t in (unit.a, unit.b))
    wide = getattr(dtypes, unit.accumulator)
    sink = normalize([(x.cast(wide) @ y.cast(wide)).uop])
    kernels, _, _ = schedule(sink, {device.name: device}, device.name)
    sources = []
    for kernel in kernels:
        assert kernel.ast is not None
        loops, _ = canonical(kernel.ast)
        optimized = apply_opts(loops, heuristic(loops, device.capabilities))
        sources.append(device.renderer.render(lower(optimized, device.capabilities)))
    machine = llvm_compiler._Machine()
    modules = [machine.binding.parse_assembly(machine.head + source) for source in sources]
    for module in modules:
        machine.passes.run(module, machine.builder)
    code = "\n".join(machine.target.emit_assembly(module) for module in modules)
    assert name in code
    if unit.registers:  # the sums stay in registers while they grow
        blocks = re.split(r"\n(?:\.L|\tj)", code)
        inner = max(blocks, key=lambda block: block.count(name))
        assert inner.count(name) > 1 and "tilestored" not in inner


def test_bfloat16_matmul_ends_in_one_rounding(device: Device) -> None:
    """Also where the sum is done by a unit, the result is rounded once, from float32."""
    random = np.random.default_rng(5)
    a, b = (numbers(random, "bfloat16", (96, 96)) for _ in range(2))
    found = (Tensor(a) @ Tensor(b)).numpy()
    exact = a.astype(np.float64) @ b.astype(np.float64)
    spacing = np.spacing(abs(exact).astype(ml_dtypes.bfloat16)).astype(np.float64)
    assert (abs(found.astype(np.float64) - exact) <= 0.51 * spacing + 1e-5).all()


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
def test_infinities_and_nan_pass_through(special: float, device: Device) -> None:
    a = np.ones((32, 40), ml_dtypes.bfloat16)
    a[3, 5] = special
    b = np.ones((40, 32), ml_dtypes.bfloat16)
    expected = np.full((32, 32), 40.0)
    expected[3] = special
    np.testing.assert_array_equal((Tensor(a) @ Tensor(b)).numpy().astype(np.float64), expected)


def test_units_follow_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    def units(*features: str, permitted: bool = True, vendor: str = "AuthenticAMD"):
        monkeypatch.setattr(host, "features", lambda: frozenset(features))
        monkeypatch.setattr(host, "vendor", lambda: vendor)
        monkeypatch.setattr(matrix_units, "_tiles_permitted", lambda: permitted)
        return matrix_units.available.__wrapped__()

    assert units("avx2") == ()
    assert units("avx512_bf16") == (UNITS["vdpbf16ps"],)
    assert [unit.name for unit in units("amx_tile", "amx_bf16")] == ["tdpbf16ps"]
    assert len(units("amx_tile", "amx_int8", "avx512_vnni")) == 5
    assert units("amx_tile", "amx_bf16", permitted=False) == ()
    (slow,) = units("avx512_bf16", vendor="GenuineIntel")
    assert slow.cycles > UNITS["vdpbf16ps"].cycles


def test_permission_is_linux_s_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "machine", lambda: "aarch64")
    assert not matrix_units._tiles_permitted()


def test_the_c_compiler_declares_none() -> None:
    spec = open_device("CPU:LLVM").capabilities
    assert open_device("CPU:CLANG").capabilities == replace(spec, matrix_units=())
