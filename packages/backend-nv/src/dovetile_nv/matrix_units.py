"""The matrix units of each architecture as a table, and what both compilers write for them."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from types import ModuleType

from dovetile import dtypes
from dovetile.ir.ops import AddressSpace, Op
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
_EFFECTS = frozenset({Op.END, Op.GROUP, Op.STORE})
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
        holds=kind is warpgroup and itemsize == 2,
    )  # fmt: skip


def pack_helper(dtype: str) -> tuple[str, str]:
    """(name, text) of the function that makes two floats one register of an operand."""
    return warpgroup.pack_helper(_TYPES[dtype])


def products(kernel: LinearKernel) -> list[UOp]:
    """The MATMULs of a kernel."""
    return [node for node in kernel.uops if node.op is Op.MATMUL]


def reads_stores(kernel: LinearKernel, barrier: UOp) -> bool:
    """Whether units that go on read what threads have stored before a barrier: what it waits for,
    or, where stores are asynchronous, any."""
    running = [product for product in products(kernel) if goes_on(product.arg)]
    read = {buffer_of(s) for product in running for s in product.src[:2] if s.op is Op.INDEX}
    stores = [n for n in kernel.uops if n.op is Op.STORE and buffer_of(n.src[0]) in read]
    if any(store.arg == "async" for store in stores):
        return True
    effects, awaited = [barrier], set()
    while effects:
        effect = effects.pop()
        awaited.add(effect)
        effects += [s for s in effect.src if s.op in _EFFECTS]
    return any(store in awaited for store in stores)


def only_kept(product: UOp, kernel: LinearKernel) -> bool:
    """Whether a sum of products goes on with what registers have held, and is only stored there
    again, lane by lane: the lanes do not leave their place, and nothing else needs them. Sums that
    a step awaits count as needed."""
    if product.arg.awaited:
        return False
    lanes = {node for node in kernel.uops if node.op is Op.EXTRACT and node.src[0] is product}
    users = [node for node in kernel.uops if not lanes.isdisjoint(node.src)]
    while product.op is Op.MATMUL:
        product = product.src[2]
    begun = any(lane.constant != 0 for lane in product.src)
    return begun and all(
        node.op is Op.STORE and buffer_of(node.src[0]).arg.space is AddressSpace.REG
        for node in users
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


def goes_on(unit: GroupUnit) -> bool:
    """Whether it computes while threads go on, and reads memory past their own way to it."""
    return unit.name.startswith("wgmma")


def assembly(unit: GroupUnit, mark: str, percent: str, first: int, adds: bool = True) -> str:
    """The text of one MATMUL: operands are numbers behind `mark`, first the lanes of C, then, from
    `first` on, both panels; percent: how the names of the hardware's registers begin; adds: whether
    C had something before."""
    total = "s32" if unit.accumulator == "int32" else "f32"
    kinds = (_TYPES[unit.a], _TYPES[unit.b], total)
    if goes_on(unit):
        return warpgroup.assembly(unit, kinds, mark, first, adds)
    return warps.assembly(unit, kinds, mark, percent, first)


def ends_products(end: UOp, kernel: LinearKernel) -> bool:
    """Whether products of the loop that ends here may still be under way."""
    return any(end.src[1] in p.ranges and goes_on(p.arg) for p in products(kernel))
