"""Opts as JSON values, so that a schedule found once can be kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any

from dovetile.errors import ArgumentError
from dovetile.ir.ops import AddressSpace, AxisKind
from dovetile.optimize import opts as _opts
from dovetile.optimize.exchange import Exchange
from dovetile.optimize.fuse import Fuse
from dovetile.optimize.keep import Keep
from dovetile.optimize.online import Online
from dovetile.optimize.online_registers import OnlineRegisters
from dovetile.optimize.opts import Opt
from dovetile.optimize.pad import Pad
from dovetile.optimize.stage_load import StageLoad
from dovetile.optimize.use_group_unit import FollowGroupUnit, UseGroupUnit
from dovetile.optimize.use_matrix_unit import UseMatrixUnit
from dovetile.plugins.matrix_unit import GroupUnit, MatrixUnit

_CLASSES: dict[str, type] = {
    c.__name__: c
    for c in (
        _opts.Split, _opts.Bind, _opts.Order, _opts.ReduceOrder, _opts.GroupReduce, _opts.Tail,
        _opts.Stage, _opts.Accumulate, _opts.Stream, Exchange, Fuse, Keep, Online, OnlineRegisters,
        Pad, StageLoad, UseMatrixUnit, UseGroupUnit, FollowGroupUnit,
    )
}  # fmt: skip
_ENUMERATIONS = {"kind": AxisKind, "space": AddressSpace}


def to_json(opts: Iterable[Opt]) -> list[list[Any]]:
    """Each Opt as [name, {field: value}]."""
    return [
        [type(o).__name__, {f.name: _plain(getattr(o, f.name)) for f in fields(o)}]  # type: ignore[arg-type]
        for o in opts
    ]


def from_json(rows: Sequence[Any]) -> list[Opt]:
    """The Opts. Raises ArgumentError where the rows were not written by `to_json`."""
    try:
        return [_CLASSES[name](**{k: _value(k, v) for k, v in row.items()}) for name, row in rows]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArgumentError(f"[opts] {rows!r} is no list of Opts ({error}); see to_json") from None


def _plain(value: Any) -> Any:
    if isinstance(value, (AxisKind, AddressSpace)):
        return value.name
    if isinstance(value, MatrixUnit):
        return asdict(value)
    return list(value) if isinstance(value, tuple) else value


def _value(field: str, value: Any) -> Any:
    enumeration = _ENUMERATIONS.get(field)
    if enumeration is not None:
        return enumeration[value]
    if field == "unit":
        unit = GroupUnit if "row_digits" in value else MatrixUnit
        return unit(**{k: _tuples(v) for k, v in value.items()})
    if isinstance(value, list):
        if field == "groups":
            return tuple(_value("axes", group) for group in value)
        if not all(isinstance(i, int) for i in value):
            raise ValueError(value)
        return tuple(value)
    if not isinstance(value, (int, str)):
        raise ValueError(value)
    return value


def _tuples(value: Any) -> Any:
    """JSON has lists where a unit has tuples, also inside each other."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
