"""Hopper's matrix unit, which four warps use together, and copies to shared memory beside it.

`wgmma` multiplies 64 rows of A by up to 256 columns of B, both in shared memory, 32 bytes of the
depth at a time; the 128 threads hold C. How they do, and how operands lie, is what the PTX manual
says of wgmma's register fragments, matrix descriptors and the 128-byte swizzle.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel, buffer_of
from dovetile.plugins.matrix_unit import ROW_BYTES, GroupUnit

_COLUMNS = (256, 128, 64)
_STEP = 16
_EFFECTS = frozenset({Op.END, Op.GROUP, Op.STORE})
_TYPES = {"float16": "f16", "bfloat16": "bf16"}


def _unit(columns: int, operand: str) -> GroupUnit:
    return GroupUnit(
        f"wgmma m64n{columns}k16 {_TYPES[operand]}", 64, columns, 16, operand, operand, "float32",
        # A warp has 16 rows; a quad of its threads two of them, 8 apart, and pairs of columns.
        row_digits=((4, "thread", 6), (2, "lane", 2), (8, "thread", 5)),
        column_digits=(
            (columns // 64, "lane", 0), (8, "lane", 1), (4, "thread", 4), (2, "lane", 3),
        ),
    )  # fmt: skip


UNITS = tuple(_unit(columns, operand) for operand in _TYPES for columns in _COLUMNS)

HELPERS = """
static __device__ inline unsigned shared_address(const void* place) {
  return (unsigned)__cvta_generic_to_shared(place);
}
// Where an operand lies: its start, the bytes to its next 64 rows where these are contiguous, and
// those to the next 8 rows of memory; pieces of 16 bytes are exchanged within rows of 128.
static __device__ inline unsigned long long panel(const void* place, unsigned leading) {
  return (shared_address(place) & 0x3ffff) >> 4 | (unsigned long long)(leading >> 4) << 16 |
         (unsigned long long)(1024 >> 4) << 32 | 1ull << 62;
}
"""
PACK = """
static __device__ inline unsigned packed_KIND(float low, float high) {
  unsigned pair;
  asm("cvt.rn.KINDx2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
"""
COPY = """
static __device__ inline void copy_ahead_BYTES(void* to, const void* from, bool really) {
  asm volatile("cp.async.CACHE.shared.global [%0], [%1], BYTES, %2;" ::
               "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(really ? BYTES : 0)
               : "memory");
}
"""


def pack_helper(dtype: str) -> tuple[str, str]:
    """(name, text) of the function that makes two floats a register of these."""
    return f"packed_{_TYPES[dtype]}", PACK.replace("KIND", _TYPES[dtype])


def copy_helper(nbytes: int) -> str:
    """The function that begins a copy of 4, 8 or 16 bytes, or of zeros."""
    return COPY.replace("BYTES", str(nbytes)).replace("CACHE", "cg" if nbytes == 16 else "ca")


def awaited(groups: int, value: str = "", lanes: int = 0) -> str:
    """Waits until only so many groups of products are under way; what reads the lanes of `value`
    comes later."""
    ties = ", ".join(f'"+f"({value}._{lane})' for lane in range(lanes))
    return f'asm volatile("wgmma.wait_group.sync.aligned {groups};" : {ties} : : "memory");'


def products(kernel: LinearKernel) -> list[UOp]:
    """The MATMULs of a kernel."""
    return [node for node in kernel.uops if node.op is Op.MATMUL]


def only_kept(product: UOp, kernel: LinearKernel) -> bool:
    """Whether a sum of products is what is stored in registers, lane by lane, and what was there
    before it: they do not leave their place, and nothing else needs them."""
    lanes = {node for node in kernel.uops if node.op is Op.EXTRACT and node.src[0] is product}
    users = [node for node in kernel.uops if not lanes.isdisjoint(node.src)]
    while product.op is Op.MATMUL:
        product = product.src[2]
    started = {buffer_of(lane.src[0]) for lane in product.src if lane.op is Op.LOAD}
    return len(started) == 1 and all(
        node.op is Op.STORE and buffer_of(node.src[0]) in started for node in users
    )


@lru_cache(maxsize=4)
def first_uses(kernel: LinearKernel) -> dict[UOp, int]:
    """The first lane of each sum of products that is used for more than to be kept, and how many
    sums have been begun after it by then."""
    found: dict[UOp, int] = {}
    begun: list[UOp] = []
    for node in kernel.uops:
        if node.op is Op.MATMUL:
            if node.src[2] in begun:
                begun.remove(node.src[2])
            begun.append(node)
        elif node.op is Op.EXTRACT and node.src[0] in begun:
            product = node.src[0]
            if not only_kept(product, kernel):
                found[node] = len(begun) - 1 - begun.index(product)
                begun.remove(product)
    return found


def reads_stores(kernel: LinearKernel, barrier: UOp) -> bool:
    """Whether the unit reads what threads have stored before a barrier: those that it waits for,
    or, where stores are asynchronous, any."""
    operands = [operand for product in products(kernel) for operand in product.src[:2]]
    read = {buffer_of(operand) for operand in operands if operand.op is Op.INDEX}
    stores = [n for n in kernel.uops if n.op is Op.STORE and buffer_of(n.src[0]) in read]
    if any(store.arg == "async" for store in stores):
        return True
    effects, awaited = [barrier], set()
    while effects:
        effect = effects.pop()
        awaited.add(effect)
        effects += [s for s in effect.src if s.op in _EFFECTS]
    return any(store in awaited for store in stores)


def instruction(unit: GroupUnit, value: str, a: str, b: str, first: bool = False) -> str:
    """The statement that adds to `value`, a struct of all lanes, or that is the first to set it;
    a, b: pointers to the operands."""
    block = ROW_BYTES // 2 * ROW_BYTES
    leading = [block if t else 16 for t in (unit.a_transposed, unit.b_transposed)]
    inputs = [f'"l"(panel({a}, {leading[0]}))', f'"l"(panel({b}, {leading[1]}))']
    ways = f"{int(unit.a_transposed)}, {int(unit.b_transposed)}"
    lanes = unit.rows * unit.columns // unit.threads
    return _statement(unit, value, f"%{lanes}", inputs, ways, first)


def instructions_of_held(
    unit: GroupUnit, value: str, a: Sequence[str], b: str, first: bool = False
) -> list[str]:
    """The same where the threads hold A, for all steps of the depth. a: its lanes, packed in pairs;
    b: a pointer to the first step."""
    lanes, itemsize = unit.rows * unit.columns // unit.threads, 2
    each = len(a) * _STEP // unit.depth
    leading = unit.depth * ROW_BYTES if unit.b_transposed else 16
    row = ROW_BYTES // itemsize
    statements = []
    for start in range(0, unit.depth, _STEP):
        away = start * ROW_BYTES
        if not unit.b_transposed:
            away = start % row * itemsize + start // row * unit.columns * ROW_BYTES
        packed = a[start // _STEP * each : (start // _STEP + 1) * each]
        inputs = [f'"r"({x})' for x in packed]
        inputs.append(f'"l"(panel((const char*){b} + {away}, {leading}))')
        operand = "{" + ", ".join(f"%{lanes + i}" for i in range(each)) + "}"
        ways = str(int(unit.b_transposed))
        statements.append(_statement(unit, value, operand, inputs, ways, first and not start))
    return statements


def _statement(
    unit: GroupUnit, value: str, a: str, inputs: Sequence[str], ways: str, first: bool = False
) -> str:
    lanes, kind = unit.rows * unit.columns // unit.threads, _TYPES[unit.a]
    held = ", ".join(f"%{lane}" for lane in range(lanes))
    shape = f"m{unit.rows}n{unit.columns}k{_STEP}"
    text = (
        f"{{ .reg .pred p; setp.eq.u32 p, {int(first)}, 0; "
        f"wgmma.mma_async.sync.aligned.{shape}.f32.{kind}.{kind} {{{held}}}, "
        f"{a}, %{lanes + len(inputs) - 1}, p, 1, 1, {ways}; }}"
    )
    kind = "=f" if first else "+f"
    outputs = ", ".join(f'"{kind}"({value}._{lane})' for lane in range(lanes))
    return f'asm volatile("{text}" : {outputs} : {", ".join(inputs)} : "memory");'
