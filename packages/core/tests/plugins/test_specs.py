from __future__ import annotations

import dataclasses

import pytest

from dovetile import dtypes, plugins
from dovetile.errors import PluginError
from dovetile.plugins import Capabilities, CommandSpec, DTypeSpec, PassSpec, ProbeResult
from dovetile.plugins.specs import STANDARD_DTYPES, WIDE_DTYPES, describe


def test_capabilities_are_hashable_values_with_modest_defaults():
    one, two = Capabilities(architecture="a"), Capabilities(architecture="a")
    assert one == two and hash(one) == hash(two)
    assert (one.threads, one.vector_bytes, one.parallel_axes) == (1, 0, ())
    assert "float16" in one.dtypes and "float16" not in one.arithmetic_dtypes
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.threads = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", ""),
        ("dtypes", {"float32"}),
        ("dtypes", frozenset({"float32"})),  # arithmetic on what cannot be stored
        ("parallel_axes", ("LANE",)),
        ("parallel_axes", ["THREAD"]),
        ("threads", 0),
        ("vector_bytes", 48),
        ("vector_bytes", -1),
        ("cache_bytes", (0,)),
        ("line_bytes", 0),
        ("bytes_per_second", 0.0),
        ("launch_seconds", -1.0),
        ("shared_work", -1),
    ],
)
def test_capabilities_are_validated(field, value):
    with pytest.raises(PluginError, match=r"\[Capabilities\]"):
        Capabilities(**{"architecture": "a", field: value})


def test_describe_tells_every_field():
    text = describe(Capabilities(architecture="a", cache_bytes=(1, 2)))
    assert set(text) == {field.name for field in dataclasses.fields(Capabilities)}
    assert text["cache_bytes"] == "1, 2"
    assert text["native_ops"] == "-"


def test_other_specs_are_validated():
    with pytest.raises(PluginError, match="without a reason"):
        ProbeResult(0)
    with pytest.raises(PluginError, match="it must be one of tensor, schedule"):
        PassSpec("p", "render", lambda: None)  # type: ignore[arg-type]
    with pytest.raises(PluginError, match="kind 'c'"):
        DTypeSpec("complex64", 8, "c", lambda: None)  # type: ignore[arg-type]
    with pytest.raises(PluginError, match="lower-case"):
        CommandSpec("Tune", "", lambda arguments: 0)


def test_everything_promised_by_the_package_exists():
    for name in plugins.__all__:
        assert getattr(plugins, name) is not None
    with pytest.raises(AttributeError):
        plugins.nothing_of_the_kind  # noqa: B018


def test_the_names_of_dtypes_are_those_that_there_are() -> None:
    assert STANDARD_DTYPES == {dtype.name for dtype in dtypes.TENSOR_DTYPES}
    assert WIDE_DTYPES == STANDARD_DTYPES - {dtype.name for dtype in dtypes.SMALL_FLOATS}
