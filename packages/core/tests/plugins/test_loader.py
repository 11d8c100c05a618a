from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import distributions
import pytest

from dovetile import environment
from dovetile.errors import EnvironmentVariableError, PluginError
from dovetile.plugins import Capabilities, PassSpec, PluginRegistry
from dovetile.plugins.loader import PluginState, ordered
from dovetile.plugins.selection import availability

GOOD = """
@hookimpl
def dovetile_devices():
    return [device("GOOD", aliases=("FINE",))]
"""


def states(registry: PluginRegistry) -> dict[str, PluginState]:
    return {record.name: record.state for record in registry.load().records}


def error(registry: PluginRegistry, name: str) -> str:
    record = next(record for record in registry.load().records if record.name == name)
    assert record.state is PluginState.FAILED
    assert record.error is not None
    return record.error


def test_a_good_plugin_is_loaded_and_recorded(plugins):
    registry = plugins(good=GOOD).load()
    (record,) = registry.records
    assert (record.name, record.distribution, record.version) == ("good", "dovetile-good", "1.0")
    assert record.state is PluginState.LOADED
    assert record.api == (0, 1)
    assert record.error is None
    assert record.provides == ("device GOOD",)
    assert [spec.name for spec in registry.devices()] == ["GOOD"]
    assert registry.owner("device", "FINE") is record


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import there_is_no_such_module", "ModuleNotFoundError: No module named 'there_is_no"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("this is bad python", "SyntaxError"),
        ("DOVETILE_PLUGIN_API = (99, 0)", "is written for plugin API 99.0, and this core has 0.1"),
        ("DOVETILE_PLUGIN_API = (99, 0)", "pip install --upgrade dovetile-core"),
        ("DOVETILE_PLUGIN_API = (0, 0)", "pip install --upgrade dovetile-bad"),
        ("DOVETILE_PLUGIN_API = '0.1'", "states DOVETILE_PLUGIN_API = '0.1'"),
        ("del DOVETILE_PLUGIN_API", "states DOVETILE_PLUGIN_API = None"),
        ("@hookimpl\ndef dovetile_device(): return []", "did you mean 'dovetile_devices'?"),
        ("@hookimpl\ndef dovetile_devices(x): return []", "dovetile_devices"),
        ("@hookimpl\ndef dovetile_devices(): return 3", "returned int; it must return a list"),
        ("@hookimpl\ndef dovetile_devices(): return [3]", "must hold only DeviceSpec"),
        ("@hookimpl\ndef dovetile_devices(): raise ValueError('no')", "ValueError: no"),
        ("@hookimpl\ndef dovetile_devices(): return [device('lower')]", "upper-case letters"),
        (
            "@hookimpl\ndef dovetile_devices(): return [device('A', compilers=('X', 'X'))]",
            "X occurs twice",
        ),
        ("@hookimpl\ndef dovetile_devices(): return [device('GOOD')]", "device GOOD is registered"),
        ("@hookimpl\ndef dovetile_devices(): return [device('FINE')]", "device FINE is registered"),
        (
            "@hookimpl\ndef dovetile_devices(): return [device('B'), device('B')]",
            "device B is registered by both",
        ),
    ],
)
def test_a_broken_plugin_is_refused_and_the_others_go_on(plugins, source, message):
    # "a..." is loaded before "bad", and "z..." after it.
    after = "@hookimpl\ndef dovetile_devices(): return [device('LATE')]"
    registry = plugins(agood=GOOD, bad=source, zgood=after)
    assert message in error(registry, "bad")
    assert states(registry) == {
        "agood": PluginState.LOADED,
        "bad": PluginState.FAILED,
        "zgood": PluginState.LOADED,
    }
    assert [spec.name for spec in registry.devices()] == ["GOOD", "LATE"]


def test_a_clash_names_both_owners_and_refuses_only_the_later(plugins):
    registry = plugins(one=GOOD, two=GOOD.replace('"GOOD"', '"OTHER"'))
    message = error(registry, "two")
    assert "one (dovetile-one 1.0)" in message
    assert "two (dovetile-two 1.0)" in message
    assert "DOVETILE_PLUGINS=-two" in message
    # Nothing of the refused plugin is left, also not what did not clash.
    assert [spec.name for spec in registry.devices()] == ["GOOD"]


def test_keyboard_interrupt_is_not_swallowed(plugins):
    with pytest.raises(KeyboardInterrupt):
        plugins(bad="raise KeyboardInterrupt").load()


def test_failed_import_keeps_the_traceback(plugins):
    registry = plugins(bad="def f(): raise RuntimeError('deep')\nf()").load()
    assert "in f" in (registry.records[0].details or "")


def test_an_entry_point_of_no_distribution_and_of_no_module():
    registry = PluginRegistry([EntryPoint("ghost", "no_such_module_at_all", "dovetile")]).load()
    assert registry.records[0].distribution == "-"
    assert "No module named" in error(registry, "ghost")


def test_an_entry_point_that_shows_up_twice_is_loaded_once(plugins, tmp_path):
    plugins(good=GOOD)
    registry = PluginRegistry(distributions.found(tmp_path) * 2).load()
    assert len(registry.records) == 1


def test_allow_and_deny(plugins):
    registry = plugins(one=GOOD, two="")
    with environment.context(DOVETILE_PLUGINS="-one"):
        assert states(registry) == {"one": PluginState.DISABLED, "two": PluginState.LOADED}
    assert "DOVETILE_PLUGINS=-one" in (registry.records[0].error or "")
    registry = PluginRegistry(registry.entries)
    with environment.context(DOVETILE_PLUGINS="one"):
        assert states(registry) == {"one": PluginState.LOADED, "two": PluginState.DISABLED}


@pytest.mark.parametrize(
    ("value", "message"),
    [("one,-two", "both allows and denies"), ("-on", "did you mean 'one'"), ("x", "no plugin 'x'")],
)
def test_bad_lists_are_errors_each_time(plugins, value, message):
    registry = plugins(one="", two="")
    with environment.context(DOVETILE_PLUGINS=value):
        for _ in range(2):
            with pytest.raises(EnvironmentVariableError, match=message):
                registry.load()
    assert set(states(registry).values()) == {PluginState.LOADED}


def test_a_compiler_for_another_plugins_device_comes_last(plugins):
    registry = plugins(
        # Loaded before the device that it is for.
        afirst="@hookimpl\ndef dovetile_compilers(): return [compiler('GOOD', 'EXTRA')]",
        good=GOOD,
    )
    assert [c.name for c in registry.compilers("GOOD")] == ["ONE", "TWO", "EXTRA"]


def test_a_registered_renderer_serves_compilers_without_one(plugins):
    source = "@hookimpl\ndef dovetile_compilers(): return [compiler('GOOD', 'X', renderer=None)]"
    lonely = plugins(good=GOOD, x=source).compilers("GOOD")[-1]
    assert "no plugin brings a renderer for the language 'text'" == availability(lonely)
    renderer = """
    @hookimpl
    def dovetile_renderers(): return [RendererSpec("text", lambda capabilities: "rendered")]
    """
    compilers = plugins(renderer=renderer).compilers("GOOD")
    assert compilers[-1].name == "X" and availability(compilers[-1]) is None
    assert compilers[-1].renderer(Capabilities(architecture="a")) == "rendered"


def test_the_other_hooks(plugins):
    registry = plugins(
        many="""
        import numpy
        @hookimpl
        def dovetile_dtypes(): return [DTypeSpec("float8", 1, "f", lambda: numpy.dtype("u1"))]
        @hookimpl
        def dovetile_importers(): return (ImporterSpec("text", (".txt",), lambda path: {}),)
        @hookimpl
        def dovetile_commands(): return [CommandSpec("tune", "tunes", lambda arguments: 0)]
        @hookimpl
        def dovetile_collectives():
            return [CollectiveSpec(name, ("GOOD",), lambda devices: None, priority=priority)
                    for name, priority in (("slow", 0), ("fast", 1))]
        @hookimpl
        def dovetile_passes():
            return [PassSpec("p", "lower", lambda: None, accepts=lambda c: c.threads > 1)]
        """
    )
    assert [spec.name for spec in registry.dtypes()] == ["float8"]
    assert [spec.name for spec in registry.importers()] == ["text"]
    assert [spec.name for spec in registry.commands()] == ["tune"]
    assert [spec.name for spec in registry.collectives()] == ["fast", "slow"]
    one, many = Capabilities(architecture="a"), Capabilities(architecture="a", threads=2)
    assert [spec.name for spec in registry.passes("lower", many)] == ["p"]
    assert registry.passes("lower", one) == registry.passes("tensor", many) == []


def test_passes_run_in_topological_order_whatever_the_order_of_installation():
    target = Capabilities(architecture="a")
    passes = [
        PassSpec("a", "lower", lambda: None, after=("c",)),  # type: ignore[arg-type]
        PassSpec("b", "lower", lambda: None),  # type: ignore[arg-type]
        PassSpec("c", "lower", lambda: None, after=("absent",)),  # type: ignore[arg-type]
        PassSpec("d", "lower", lambda: None, before=("b",)),  # type: ignore[arg-type]
    ]
    for order in (passes, passes[::-1]):
        assert [p.name for p in ordered(order, target)] == ["c", "a", "d", "b"]
    circle = [
        PassSpec("a", "lower", lambda: None, before=("b",)),  # type: ignore[arg-type]
        PassSpec("b", "lower", lambda: None, before=("a",)),  # type: ignore[arg-type]
    ]
    with pytest.raises(PluginError, match="circle"):
        ordered(circle, target)


def test_importing_dovetile_loads_neither_plugins_nor_pluggy():
    code = "import sys, dovetile, dovetile.plugins.specs; print('pluggy' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
