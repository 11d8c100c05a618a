"""A target with units that several threads use together."""

from __future__ import annotations

from dataclasses import replace

from loop_kernels import GROUPS

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.plugins import Capabilities
from dovetile.plugins.matrix_unit import GroupUnit


def unit(columns: int, dtype: DType = dtypes.bfloat16) -> GroupUnit:
    """64 rows, held by four warps of 32: a quad of threads has the pairs of a row."""
    return GroupUnit(
        f"group{columns}", 64, columns, 32 // dtype.itemsize, dtype.name, dtype.name,
        "float32" if dtype.is_float else "int32",
        transposes=dtype.itemsize == 2, rounds=dtype is dtypes.float32,
        holds=dtype.itemsize == 2,
        row_digits=((4, "thread", 6), (2, "lane", 2), (8, "thread", 5)),
        column_digits=(
            (columns // 64, "lane", 0), (8, "lane", 1), (4, "thread", 4), (2, "lane", 3),
        ),
    )  # fmt: skip


def target(copies: str, *units: GroupUnit) -> Capabilities:
    return replace(
        GROUPS, warp=32, group_threads=512, matrix_units=units or (unit(64), unit(128)),
        asynchronous_copies=bool(copies), bulk_copies=copies == "boxes", local_bytes=200 << 10,
    )  # fmt: skip
