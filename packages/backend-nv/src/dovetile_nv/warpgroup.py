"""`wgmma`, Hopper's matrix unit, which four warps use together, and copies to shared memory.

It multiplies 64 rows of A by up to 256 columns of B, both in shared memory; the 128 threads hold C.
How they do, and how operands lie, is what the PTX manual says of wgmma's register fragments, matrix
descriptors and the 128-byte swizzle.
"""

from __future__ import annotations

from dovetile.plugins.matrix_unit import ROW_BYTES, GroupUnit

STEP = 16  # of the depth, where the threads hold A
SIZES = ((64, 256), (64, 192), (64, 128), (64, 64))


def row_digits(rows: int) -> tuple[tuple[int, str, int], ...]:
    """A warp has 16 rows, a quad of its threads two of them, 8 apart."""
    return (rows // 16, "thread", 6), (2, "lane", 2), (8, "thread", 5)


def column_digits(columns: int) -> tuple[tuple[int, str, int], ...]:
    """A thread has pairs of columns."""
    return (columns // 64, "lane", 0), (8, "lane", 1), (4, "thread", 4), (2, "lane", 3)


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


def pack_helper(kind: str) -> tuple[str, str]:
    """(name, text) of the function that makes two floats a register of these."""
    return f"packed_{kind}", PACK.replace("KIND", kind)


def copy_helper(nbytes: int) -> str:
    """The function that begins a copy of 4, 8 or 16 bytes, or of zeros."""
    return COPY.replace("BYTES", str(nbytes)).replace("CACHE", "cg" if nbytes == 16 else "ca")


def panel_forms(unit: GroupUnit) -> list[int]:
    """How A and B lie, beside where they begin, as bits of a matrix descriptor: the bytes to the
    next 64 rows or columns where these are contiguous, and those to the next 8 rows of memory;
    pieces of 16 bytes are exchanged within rows of 128."""
    block = max(ROW_BYTES // 2, unit.depth) * ROW_BYTES
    leading = (block if t else 16 for t in (unit.a_transposed, unit.b_transposed))
    return [n >> 4 << 16 | 1024 >> 4 << 32 | 1 << 62 for n in leading]


def held_steps(unit: GroupUnit) -> list[tuple[int, int, int]]:
    """The instructions for an A that the threads hold: (begin, end) of its registers, two elements
    in each, and how many bytes from B's start B lies."""
    steps, each = [], unit.rows * STEP // unit.threads // 2
    for number in range(unit.depth // STEP):
        away = number * STEP * ROW_BYTES
        if not unit.b_transposed:
            panel, inside = divmod(number * STEP * 2, ROW_BYTES)
            away = panel * unit.columns * ROW_BYTES + inside
        steps.append((number * each, (number + 1) * each, away))
    return steps


def assembly(
    unit: GroupUnit, kinds: tuple[str, str, str], mark: str, first: int, adds: bool
) -> str:
    """The instruction. Operands are numbers behind `mark`: all lanes, then, from `first` on, the
    descriptors of both panels, or before that of B four registers of A; kinds: the types of A, B
    and C; adds: whether the lanes had something before."""
    held = ", ".join(f"{mark}{lane}" for lane in range(unit.lanes))
    left, right, total = kinds
    # What integers lack: factors of the operands; what only two bytes have: transposed ones.
    more = [] if total == "s32" else [1, 1]
    ways = [unit.b_transposed] if unit.held else [unit.a_transposed, unit.b_transposed]
    more += [int(way) for way in ways] if unit.transposes else []
    a, b, depth = f"{mark}{first}", first + 1, unit.depth
    if unit.held:
        a = "{" + ", ".join(f"{mark}{first + i}" for i in range(4)) + "}"
        b, depth = first + 4, STEP
    return (
        f"{{ .reg .pred p; setp.eq.u32 p, {int(not adds)}, 0; "
        f"wgmma.mma_async.sync.aligned.m{unit.rows}n{unit.columns}k{depth}"
        f".{total}.{left}.{right} "
        f"{{{held}}}, {a}, {mark}{b}, {', '.join(['p', *map(str, more)])}; }}"
    )


def awaited(groups: int) -> str:
    """Waits until only so many groups of products are under way."""
    return f"wgmma.wait_group.sync.aligned {groups};"
