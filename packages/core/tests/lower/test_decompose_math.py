"""The transcendental functions against NumPy in the next wider type, in units in the last place."""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable

import numpy as np
import pytest
from linear_kernels import COMPILERS, LlvmCompiler, call, elementwise_kernel

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir import Op, UOp
from dovetile.lower.decompose import decompositions
from dovetile.plugins.specs import Capabilities

WITH_FUSED = Capabilities(architecture="test", native_ops=frozenset({"MULACC"}))
WITHOUT_FUSED = Capabilities(architecture="test")


def function(op: Op) -> Callable[[UOp], UOp]:
    return lambda x: UOp(op, x.dtype, (x,))


def exp2_of(scale: float) -> Callable[[UOp], UOp]:
    return lambda x: (x * scale).alu(Op.EXP2)


# name: (what is computed, NumPy's function, bound on the error in units in the last place)
FUNCTIONS: dict[str, tuple[Callable[[UOp], UOp], Callable, float]] = {
    "exp2": (function(Op.EXP2), np.exp2, 1.0),
    "exp": (exp2_of(math.log2(math.e)), np.exp, 1.5),
    "exp(-x)": (exp2_of(-math.log2(math.e)), lambda x: np.exp(-x), 1.5),
    "log2": (function(Op.LOG2), np.log2, 2.0),
    "sin": (function(Op.SIN), np.sin, 2.0),
    "cos": (lambda x: (x + math.pi / 2).alu(Op.SIN), np.cos, 2.0),
    "sqrt": (function(Op.SQRT), np.sqrt, 1.0),
    "trunc": (function(Op.TRUNC), np.trunc, 0.0),
}


def float32_samples() -> np.ndarray:
    """Every 2039th of all bit patterns, and dense samples where functions change most."""
    random = np.random.default_rng(3)
    patterns = np.arange(0, 1 << 32, 2039, dtype=np.uint64).astype(np.uint32).view(np.float32)
    extra = [
        random.standard_normal(1 << 17),
        random.uniform(-160, 160, 1 << 17),
        np.exp(random.standard_normal(1 << 17) * 0.1),
        np.arange(-500, 500) * (math.pi / 2),
        np.arange(-200, 200) * 0.5,
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.17549435e-38, 3.4028235e38],
    ]
    return padded(np.concatenate([patterns, *extra]).astype(np.float32))


def float64_samples() -> np.ndarray:
    random = np.random.default_rng(4)
    extra = [
        random.integers(0, 1 << 64, 1 << 16, dtype=np.uint64).view(np.float64),
        random.standard_normal(1 << 16) * 10,
        random.uniform(-1100, 1100, 1 << 16),
        np.exp(random.standard_normal(1 << 16) * 0.1),
        np.arange(-500, 500) * (math.pi / 2),
        np.arange(-2200, 2200) * 0.5,
        [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7e308],
    ]
    return padded(np.concatenate(extra))


def padded(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones(-len(x) % 16, x.dtype)])


def error(result: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of the exact value rounded to the type."""
    limit = np.finfo(result.dtype)
    rounded = exact.astype(result.dtype)
    unit = np.spacing(np.minimum(np.abs(rounded), limit.max)).astype(np.longdouble)
    # Overflow: infinity counts as the power of two after the greatest number.
    beyond = np.longdouble(2) ** int(limit.maxexp)
    finite = np.where(np.isinf(result), np.copysign(beyond, result), result)
    target = np.where(np.abs(exact) > beyond, np.copysign(beyond, exact), exact)
    distance = np.abs(finite - target) / unit
    agree = (result == rounded) | (np.isnan(result) & np.isnan(exact))
    return np.where(np.isnan(distance) | ~np.isfinite(exact), np.where(agree, 0, np.inf), distance)


SAMPLES = {dtypes.float32: float32_samples, dtypes.float64: float64_samples}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("capabilities", [WITH_FUSED, WITHOUT_FUSED], ids=["fused", "plain"])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64], ids=lambda d: d.name)
@pytest.mark.parametrize("compiler", [COMPILERS[0]])
def test_error_in_units_in_the_last_place(
    compiler, dtype: DType, name: str, capabilities: Capabilities
) -> None:
    build, reference, bound = FUNCTIONS[name]
    if dtype is dtypes.float64 and np.finfo(np.longdouble).nmant < 60:
        pytest.skip("NumPy has no type wider than float64 here")
    x = SAMPLES[dtype]()
    kernel = elementwise_kernel(build, [dtype], dtype, x.size, 16, decompositions(capabilities))
    result = np.empty_like(x)
    call(LlvmCompiler(capabilities), kernel, result, x)
    exact = np.asarray(reference(x.astype(np.longdouble)))
    found = error(result, exact)
    worst = int(np.argmax(found))
    assert found[worst] <= bound, (found[worst], x[worst], result[worst], exact[worst])
    if name in ("sin", "sqrt", "trunc"):
        zero = x == 0
        np.testing.assert_array_equal(np.signbit(result[zero]), np.signbit(x[zero]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["exp", "log2", "sin"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_compiler_agrees_on_scalars(compiler, name: str) -> None:
    """The same bound without vectors, in C too."""
    build, reference, bound = FUNCTIONS[name]
    x = float32_samples()[::37].copy()
    kernel = elementwise_kernel(
        build, [dtypes.float32], dtypes.float32, x.size, 1, decompositions(WITHOUT_FUSED)
    )
    result = np.empty_like(x)
    call(compiler, kernel, result, x)
    found = error(result, np.asarray(reference(x.astype(np.longdouble))))
    assert found.max() <= bound


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("op", [Op.EXP2, Op.LOG2, Op.SIN, Op.SQRT])
@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize("compiler", [COMPILERS[0]])
def test_small_floats_are_correctly_rounded(compiler, dtype: DType, op: Op) -> None:
    """Through float32, all 65536 values: at most one in a thousand on the wrong side of a tie."""
    host = dtypes.to_numpy(dtype)
    x = np.arange(65536, dtype=np.uint16).view(host)
    reference = {Op.EXP2: np.exp2, Op.LOG2: np.log2, Op.SIN: np.sin, Op.SQRT: np.sqrt}[op]
    result = np.empty(65536, host)
    rules = decompositions(WITH_FUSED)
    kernel = elementwise_kernel(function(op), [dtype], dtype, x.size, 16, rules)
    call(LlvmCompiler(WITH_FUSED), kernel, result, x)
    right = reference(x.astype(np.float64)).astype(host)
    got, want = result.astype(np.float64), right.astype(np.float64)
    wrong = ~((got == want) | (np.isnan(got) & np.isnan(want)))
    assert wrong.mean() < 1e-3
    between = np.abs(result.view(np.int16)[wrong].astype(int) - right.view(np.int16)[wrong])
    assert np.all(between <= 1)


@pytest.mark.parametrize("name", ["exp2", "exp"])
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64], ids=lambda d: d.name)
def test_exponentials_of_masked_scores_do_not_underflow(dtype: DType, name: str) -> None:
    """A product that is too small may take a processor a hundred times as long."""
    library = ctypes.CDLL(None)
    underflow = {"x86_64": 16, "aarch64": 8}.get(platform.machine())
    if underflow is None or not hasattr(library, "fetestexcept"):
        pytest.skip("no way to read the processor's flags here")
    build, _, _ = FUNCTIONS[name]
    x = np.repeat(np.array([-math.inf, -3000.0], dtypes.to_numpy(dtype)), 16)
    kernel = elementwise_kernel(build, [dtype], dtype, x.size, 16, decompositions(WITH_FUSED))
    result = np.ones_like(x)
    library.feclearexcept(underflow)
    call(LlvmCompiler(WITH_FUSED), kernel, result, x)
    assert library.fetestexcept(underflow) == 0
    assert np.array_equal(result, np.zeros_like(x))
