from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetile.errors import ArgumentError
from dovetile.ir.ops import AddressSpace, AxisKind
from dovetile.optimize import opts as module
from dovetile.optimize import opts_json
from dovetile.optimize.keep import Keep
from dovetile.optimize.online import Online
from dovetile.optimize.opts import (
    Accumulate,
    Bind,
    GroupReduce,
    Order,
    ReduceOrder,
    Split,
    Stage,
    Stream,
    Tail,
)
from dovetile.optimize.opts_json import from_json, to_json
from dovetile.optimize.pad import Pad
from dovetile.optimize.use_group_unit import UseGroupUnit
from dovetile.optimize.use_matrix_unit import UseMatrixUnit
from dovetile.plugins.matrix_unit import GroupUnit, MatrixUnit

UNITS = [
    MatrixUnit("outer", 8, 4, 2, "float16", "bfloat16", "float32", registers=4, cycles=2.5),
    MatrixUnit("dot", 1, 16, 4, "uint8", "int8", "int32", 4),
]
GROUP_UNIT = GroupUnit(
    "group", 8, 4, 2, "float16", "float16", "float32",
    row_digits=((2, "lane", 0), (4, "thread", 5)), column_digits=((4, "thread", 4),),
    b_transposed=True, first=7,
)  # fmt: skip
ids = st.integers(0, 99)
several = st.lists(ids, max_size=4).map(tuple)
opts = st.one_of(
    st.builds(Split, ids, st.integers(1, 4096), st.sampled_from(["overlap", "short"])),
    st.builds(Bind, ids, st.sampled_from(AxisKind)),
    st.builds(Order, several),
    st.builds(ReduceOrder, several),
    st.builds(GroupReduce, several),
    st.builds(Tail, ids, st.integers(1, 64)),
    st.builds(Stage, st.integers(0, 1), several, st.sampled_from(AddressSpace), st.integers(1, 4)),
    st.builds(Accumulate, several),
    st.just(Stream()),
    st.builds(Keep, ids, ids),
    st.builds(Online, ids, st.integers(1, 4096), st.sampled_from(AddressSpace)),
    st.builds(Pad, ids, st.integers(1, 64)),
    st.builds(UseMatrixUnit, st.sampled_from(UNITS), several, several),
    st.builds(UseGroupUnit, st.just(GROUP_UNIT), ids, ids, ids),
)


@given(st.lists(opts, max_size=6))
def test_round_trip(given_opts: list):
    assert from_json(json.loads(json.dumps(to_json(given_opts)))) == given_opts


def test_every_opt_can_be_sent():
    """A search's workers, and its results on disk, get Opts in this form."""
    made = {
        value for value in vars(module).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value) and hasattr(value, "apply")
    }  # fmt: skip
    assert made <= set(opts_json._CLASSES.values())


@given(opts)
def test_repr_evaluates_to_the_same(opt: object):
    others = (Keep, Online, Pad, UseMatrixUnit, MatrixUnit, AxisKind, AddressSpace)
    names = {**vars(module), **{kind.__name__: kind for kind in others}}
    assert eval(repr(opt), names) == opt


@pytest.mark.parametrize(
    "rows",
    [
        [["Explode", {}]],
        [["Split", {"axis": 1}]],
        [["Split", {"axis": 1, "size": None}]],
        [["Split", {"axis": 1, "size": 2, "more": 3}]],
        [["Bind", {"axis": 1, "kind": "SIDEWAYS"}]],
        [["Order", {"axes": ["a"]}]],
        ["Split"],
        [3],
    ],
)
def test_other_rows_are_refused(rows: list):
    with pytest.raises(ArgumentError, match="is no list of Opts"):
        from_json(rows)
