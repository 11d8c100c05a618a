"""The matrix units of each architecture as a table, and what both compilers write for them."""

from __future__ import annotations

from itertools import product
from types import ModuleType

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel, buffer_of
from dovetile.plugins.matrix_unit import GroupUnit
from dovetile_nv import warpgroup, warps

_TYPES = {
    "float16": "f16", "bfloat16": "bf16", "float32": "tf32", "int8": "s8", "uint8": "u8",
    "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2", "int32": "s32",
}  # fmt: skip
_OPERANDS = (
    ("float16", "float16"), ("bfloat16", "bfloat16"), ("float32", "float32"),
    *product(("int8", "uint8"), repeat=2), *product(("float8_e4m3fn", "float8_e5m2"), repeat=2),
)  # fmt: skip
_DEPTH_BYTES = 32  # of the depth that one instruction takes


def units(number: int) -> tuple[GroupUnit, ...]:
    """Those of compute capability `number` / 10."""
    if number < 80:
        return ()
    kind = warpgroup if number == 90 else warps
    operands = [(a, b) for a, b in _OPERANDS if number >= 89 or "float8" not in a]
    return tuple(_unit(kind, *size, a, b) for a, b in operands for size in kind.SIZES)


def _unit(kind: ModuleType, rows: int, columns: int, a: str, b: str) -> GroupUnit:
    itemsize = getattr(dtypes, a).itemsize
    depth = _DEPTH_BYTES // itemsize
    name = "wgmma" if kind is warpgroup else "mma"
    return GroupUnit(
        f"{name} m{rows}n{columns}k{depth} {_TYPES[a]} {_TYPES[b]}", rows, columns, depth, a, b,
        "int32" if "int" in a else "float32",
        row_digits=kind.row_digits(rows),
        column_digits=kind.column_digits(columns),
        transposes=itemsize == 2,
        rounds=a == "float32",
    )  # fmt: skip


def products(kernel: LinearKernel) -> list[UOp]:
    """The MATMULs of a kernel."""
    return [node for node in kernel.uops if node.op is Op.MATMUL]


def reads_stores(kernel: LinearKernel) -> bool:
    """Whether units that go on read what threads have stored."""
    running = [product for product in products(kernel) if goes_on(product.arg)]
    read = {buffer_of(s) for product in running for s in product.src[:2] if s.op is Op.INDEX}
    return any(n.op is Op.STORE and buffer_of(n.src[0]) in read for n in kernel.uops)


def goes_on(unit: GroupUnit) -> bool:
    """Whether it computes while threads go on, and reads memory past their own way to it."""
    return unit.name.startswith("wgmma")


def assembly(unit: GroupUnit, mark: str, percent: str, first: int) -> str:
    """The text of one MATMUL: operands are numbers behind `mark`, first the lanes of C, then, from
    `first` on, both panels; percent: how the names of the hardware's registers begin."""
    total = "s32" if unit.accumulator == "int32" else "f32"
    kinds = (_TYPES[unit.a], _TYPES[unit.b], total)
    if goes_on(unit):
        return warpgroup.assembly(unit, kinds, mark, first)
    return warps.assembly(unit, kinds, mark, percent, first)


def ends_products(end: UOp, kernel: LinearKernel) -> bool:
    """Whether products of the loop that ends here may still be under way."""
    return any(end.src[1] in p.ranges and goes_on(p.arg) for p in products(kernel))
