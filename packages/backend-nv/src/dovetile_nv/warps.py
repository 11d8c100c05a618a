"""`mma`, the matrix unit since compute capability 8.0: four warps, two by two.

Each warp multiplies its rows by its columns: `ldmatrix` brings operands from shared memory to
registers, and `mma` multiplies 16 rows by 8 columns. How these lie in registers is what the PTX
manual says of mma's fragments and of ldmatrix.
"""

from __future__ import annotations

from itertools import product

from dovetile.plugins.matrix_unit import PIECE_BYTES, ROW_BYTES, GroupUnit

SIZES = ((128, 128), (64, 128), (64, 64))
_ROWS, _COLUMNS = 16, 8


def row_digits(rows: int) -> tuple[tuple[int, str, int], ...]:
    """A thread has rows 8 apart, of each 16 that its warp has."""
    return (2, "thread", 7), (rows // 2 // _ROWS, "lane", 0), (2, "lane", 2), (8, "thread", 5)


def column_digits(columns: int) -> tuple[tuple[int, str, int], ...]:
    """A thread has pairs of columns."""
    own = columns // 2 // _COLUMNS
    return (2, "thread", 6), (own, "lane", 1), (4, "thread", 4), (2, "lane", 3)


def assembly(
    unit: GroupUnit, kinds: tuple[str, str, str], mark: str, percent: str, first: int
) -> str:
    """The instructions. Operands are numbers behind `mark`: all lanes, then, from `first` on, the
    addresses of both panels; kinds: the types of A, B and C; percent: how the names of the
    hardware's registers begin."""
    down, across = unit.rows // 2 // _ROWS, unit.columns // 2 // _COLUMNS
    left, right, total = kinds
    name = f"mma.sync.aligned.m{_ROWS}n{_COLUMNS}k{unit.depth}.row.col"
    a = [f"a{i}_{part}" for i in range(down) for part in range(4)]
    b = [f"b{j}_{part}" for j in range(across) for part in range(2)]
    lines = [
        f".reg .b32 t, x, y, p, {', '.join(a + b)};",
        f"mov.u32 t, {percent}tid.x;",
        *_loads(unit.a_transposed, f"{mark}{first}", 6, unit.rows // 2, True, a),
        *_loads(unit.b_transposed, f"{mark}{first + 1}", 5, unit.columns // 2, False, b),
    ]
    for i, j in product(range(down), range(across)):
        lane = (i * across + j) * 4
        held = ", ".join(f"{mark}{lane + n}" for n in range(4))
        of_a, of_b = ", ".join(a[4 * i : 4 * i + 4]), ", ".join(b[2 * j : 2 * j + 2])
        lines.append(
            f"{name}.{total}.{left}.{right}.{total} {{{held}}}, {{{of_a}}}, {{{of_b}}}, {{{held}}};"
        )
    return f"{{ {' '.join(lines)} }}"


def _loads(
    transposed: bool, panel: str, part: int, own: int, of_a: bool, registers: list[str]
) -> list[str]:
    """Loads the warp's part of a panel, `own` rows of A or columns of B, into registers.

    Four matrices of 8 pieces at once, of which each eighth of the warp has the addresses: for A the
    second has the next 8 rows, the third the next 8 steps of the depth (of two bytes); for B, with
    two registers a column, it is the other way round. part: the bit of the thread's number that
    tells which part is the warp's.
    """
    down, along = 8 * ROW_BYTES, PIECE_BYTES
    second, third = (down, along) if of_a != transposed else (along, down)
    whole = own * ROW_BYTES
    if transposed:
        whole = own * 2 if own * 2 < ROW_BYTES else ROW_BYTES // 2 * ROW_BYTES
    lines = [f"and.b32 x, t, 7; mad.lo.u32 p, x, {ROW_BYTES}, {panel};"]
    for bit, stride in ((part, whole), (3, second), (4, third)):
        lines.append(f"bfe.u32 x, t, {bit}, 1; mad.lo.u32 p, x, {stride}, p;")
    # Pieces are exchanged by the number of their row.
    lines.append(f"shr.u32 x, p, 3; and.b32 x, x, {ROW_BYTES - PIECE_BYTES}; xor.b32 p, p, x;")
    at_once = 16  # rows, or columns
    for n in range(len(registers) // 4):
        held = ", ".join(registers[4 * n : 4 * n + 4])
        if transposed:
            lines.append(f"xor.b32 y, p, {2 * at_once * n};")
            lines.append(f"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{{held}}}, [y];")
        else:
            place = f"p+{n * at_once * ROW_BYTES}"
            lines.append(f"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{{held}}}, [{place}];")
    return lines
