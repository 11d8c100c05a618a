"""Hopper's matrix unit, which four warps use together, and copies to shared memory beside it.

`wgmma` multiplies 64 rows of A by up to 256 columns of B, both in shared memory, 32 bytes of the
depth at a time; the 128 threads hold C. How they do, and how operands lie, is what the PTX manual
says of wgmma's register fragments, matrix descriptors and the 128-byte swizzle.
"""

from __future__ import annotations

from itertools import product

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel
from dovetile.plugins.matrix_unit import ROW_BYTES, GroupUnit

_COLUMNS = (256, 192, 128, 64)
_TYPES = {
    "float16": "f16", "bfloat16": "bf16", "float32": "tf32", "int8": "s8", "uint8": "u8",
    "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2",
}  # fmt: skip
_OPERANDS = [
    ("float16", "float16"), ("bfloat16", "bfloat16"), ("float32", "float32"),
    *product(("int8", "uint8"), repeat=2), *product(("float8_e4m3fn", "float8_e5m2"), repeat=2),
]  # fmt: skip
# The bytes of the depth that one instruction takes.
_DEPTH_BYTES = 32


def _unit(columns: int, a: str, b: str) -> GroupUnit:
    itemsize = getattr(dtypes, a).itemsize
    depth = _DEPTH_BYTES // itemsize
    return GroupUnit(
        f"wgmma m64n{columns}k{depth} {_TYPES[a]} {_TYPES[b]}", 64, columns, depth, a, b,
        "int32" if "int" in a else "float32",
        # A warp has 16 rows; a quad of its threads two of them, 8 apart, and pairs of columns.
        row_digits=((4, "thread", 6), (2, "lane", 2), (8, "thread", 5)),
        column_digits=(
            (columns // 64, "lane", 0), (8, "lane", 1), (4, "thread", 4), (2, "lane", 3),
        ),
        transposes=itemsize == 2,
        rounds=a == "float32",
    )  # fmt: skip


UNITS = tuple(_unit(columns, a, b) for a, b in _OPERANDS for columns in _COLUMNS)

HELPERS = """
static __device__ inline unsigned shared_address(const void* place) {
  return (unsigned)__cvta_generic_to_shared(place);
}
static __device__ inline unsigned long long panel(const void* place, unsigned long long form) {
  return (shared_address(place) & 0x3ffff) >> 4 | form;
}
"""
COPY = """
static __device__ inline void copy_ahead_BYTES(void* to, const void* from, bool really) {
  asm volatile("cp.async.CACHE.shared.global [%0], [%1], BYTES, %2;" ::
               "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(really ? BYTES : 0)
               : "memory");
}
"""


def copy_helper(nbytes: int) -> str:
    """The function that begins a copy of 4, 8 or 16 bytes, or of zeros."""
    return COPY.replace("BYTES", str(nbytes)).replace("CACHE", "cg" if nbytes == 16 else "ca")


def products(kernel: LinearKernel) -> list[UOp]:
    """The MATMULs of a kernel."""
    return [node for node in kernel.uops if node.op is Op.MATMUL]


def instruction(unit: GroupUnit, value: str, a: str, b: str) -> str:
    """The statement that adds to `value`, a struct of all lanes; a, b: pointers to the operands."""
    register = "r" if unit.accumulator == "int32" else "f"
    outputs = ", ".join(f'"+{register}"({value}._{lane})' for lane in range(unit.lanes))
    panels = (f'"l"(panel({x}, {n}ull))' for x, n in zip((a, b), panel_forms(unit)))
    text = assembly(unit, "%", again=False)
    return f'asm volatile("{text}" : {outputs} : {", ".join(panels)} : "memory");'


def panel_forms(unit: GroupUnit) -> list[int]:
    """How A and B lie, beside where they begin, as bits of a matrix descriptor: the bytes to the
    next 64 rows or columns where these are contiguous, and those to the next 8 rows of memory;
    pieces of 16 bytes are exchanged within rows of 128."""
    block = ROW_BYTES // 2 * ROW_BYTES
    leading = (block if t else 16 for t in (unit.a_transposed, unit.b_transposed))
    return [n >> 4 << 16 | 1024 >> 4 << 32 | 1 << 62 for n in leading]


def assembly(unit: GroupUnit, mark: str, again: bool = True) -> str:
    """The instruction; operands are numbers behind `mark`: all lanes, then both panels. again:
    whether the lanes have numbers of their own as inputs, too."""
    lanes = unit.lanes
    held = ", ".join(f"{mark}{lane}" for lane in range(lanes))
    first = 2 * lanes if again else lanes
    total = "s32" if unit.accumulator == "int32" else "f32"
    # What integers lack: factors of the operands; what only two bytes have: transposed ones.
    more = [] if total == "s32" else [1, 1]
    more += [int(unit.a_transposed), int(unit.b_transposed)] if unit.transposes else []
    return (
        "{ .reg .pred p; setp.eq.u32 p, 0, 0; "
        f"wgmma.mma_async.sync.aligned.m{unit.rows}n{unit.columns}k{unit.depth}"
        f".{total}.{_TYPES[unit.a]}.{_TYPES[unit.b]} "
        f"{{{held}}}, {mark}{first}, {mark}{first + 1}, {', '.join(['p', *map(str, more)])}; }}"
    )


def awaited(groups: int) -> str:
    """Waits until only so many groups of products are under way."""
    return f"wgmma.wait_group.sync.aligned {groups};"
