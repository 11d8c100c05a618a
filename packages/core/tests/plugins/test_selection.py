from __future__ import annotations

import threading

import pytest

from dovetile import environment
from dovetile.errors import DeviceError
from dovetile.plugins.selection import DeviceManager, Request

TWO_DEVICES = """
opened = []

def opener(selection):
    opened.append(selection.name)
    return Device(selection)

@hookimpl
def dovetile_devices():
    return [
        device("SLOW", aliases=("SNAIL",), opener=opener, priority=1, count=2,
               reasons={"ONE": "pip install one"}, architectures=("s1", "s2")),
        device("FAST", opener=opener, priority=2),
        device("ABSENT", count=0, priority=9),
    ]
"""


@pytest.fixture
def manager(plugins) -> DeviceManager:
    return DeviceManager(plugins(two=TWO_DEVICES))


@pytest.mark.parametrize(
    ("text", "request_", "canonical"),
    [
        ("abacus", Request("ABACUS"), "ABACUS"),
        ("ABACUS:0", Request("ABACUS"), "ABACUS"),
        ("ABACUS:3", Request("ABACUS", index=3), "ABACUS:3"),
        ("ABACUS:fast", Request("ABACUS", "FAST"), "ABACUS:FAST"),
        ("ABACUS:FAST:gfx1100:2", Request("ABACUS", "FAST", "gfx1100", 2), "ABACUS:FAST:gfx1100:2"),
    ],
)
def test_requests(text, request_, canonical):
    assert Request.parse(text) == request_
    assert str(request_) == canonical


@pytest.mark.parametrize("text", ["", ":", "A:", "A::1", "A:1:2", "A:B:C:D"])
def test_malformed_requests(text):
    with pytest.raises(DeviceError, match="names no device"):
        Request.parse(text)


def test_automatic_choice_takes_the_usable_device_of_highest_priority(manager):
    assert manager.default_name() == "FAST"


def test_automatic_choice_passes_over_devices_quietly(plugins, capsys):
    manager = DeviceManager(
        plugins(
            good="@hookimpl\ndef dovetile_devices(): return [device('GOOD')]",
            bad="""
            def explode(*_): raise OSError("driver fell over")
            @hookimpl
            def dovetile_devices():
                return [
                    device("CRASHES", opener=explode, priority=5),
                    DeviceSpec("NOPROBE", probe=explode, open=Device, priority=6,
                               compilers=(compiler("NOPROBE", "X"),)),
                    device("NOCOMPILER", reasons={"ONE": "a", "TWO": "b"}, priority=7),
                    DeviceSpec("CHECKRAISES", probe=lambda: ProbeResult(1), open=Device,
                               priority=8, compilers=(CompilerSpec("X", "CHECKRAISES", "text",
                               None, lambda c: None, available=explode),)),
                ]
            """,
        )
    )
    assert manager.default_name() == "GOOD"
    assert capsys.readouterr().err == ""
    for name, cause in {
        "CRASHES": "failed to open: OSError: driver fell over; it comes from the plugin bad",
        "NOPROBE": "its probe raised OSError",
        "NOCOMPILER": "ONE: a",
        "CHECKRAISES": "its check raised OSError",
    }.items():
        with pytest.raises(DeviceError, match=cause):
            manager.open(name)


def test_no_device_at_all_tells_why(plugins):
    manager = DeviceManager(plugins(bad="import missing_module_here"))
    with pytest.raises(DeviceError, match="no device is usable") as caught:
        manager.default_name()
    assert "No module named 'missing_module_here'" in str(caught.value)


def test_DEV_names_device_compiler_and_index(manager):
    with environment.context(DEV="SLOW:1"):
        assert manager.default_name() == "SLOW:1"
    with environment.context(DEV="FAST:TWO"):
        assert manager.default_name() == "FAST:TWO"
        # The compiler holds however the device is asked for.
        assert manager.open("FAST") is manager.open("fast:two")
        assert manager.open("FAST").selection.compiler.name == "TWO"
    assert manager.open("FAST").selection.compiler.name == "ONE"
    with environment.context(DEV="SNAIL:TWO:s2"):
        selection = manager.open("SLOW:1").selection
        assert (selection.architecture, selection.index) == ("s2", 1)


def test_the_compiler_that_would_be_taken_anyway_makes_no_second_device(manager):
    assert manager.open("FAST:ONE") is manager.open("FAST")
    assert manager.open("SLOW:TWO") is manager.open("SLOW")  # ONE is not available
    assert manager.open("SNAIL") is manager.open("slow")
    assert manager.open("FAST:TWO") is not manager.open("FAST")


def test_a_device_is_opened_once_by_many_threads(manager):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(manager.open("FAST"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(map(id, found))) == 1


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("FSAT", ["no plugin brings a device 'FSAT'", "did you mean 'FAST'?", "valid are: ABSENT"]),
        ("MISSING", ["pip install dovetile-backend-missing"]),
        ("FAST:3", ["there is no index 3", "valid are 0 to 0"]),
        ("FAST:THREE", ["FAST has no compiler 'THREE'", "valid are: ONE, TWO"]),
        ("SLOW:ONE", ["ONE is not available: pip install one"]),
        ("SLOW:TWO:s3", ["no architecture 's3'", "valid are: s1, s2"]),
        ("FAST:TWO:s1", ["no architecture 's1'", "valid are: none"]),
        ("ABSENT", ["cannot be used here: there is none in this machine"]),
    ],
)
def test_explicit_choices_fail_with_cause_and_fix(manager, name, messages):
    with pytest.raises(DeviceError) as caught:
        manager.open(name)
    for message in messages:
        assert message in str(caught.value)
    with environment.context(DEV=name), pytest.raises(DeviceError):
        manager.default_name()


@pytest.mark.parametrize("name", ["BAD", "KNOWN", "SLOW"])
def test_a_device_of_a_refused_plugin_quotes_the_recorded_cause(plugins, name):
    sources = {
        "BAD": {"bad": "import missing_module_here"},
        "KNOWN": {
            "a": "@hookimpl\ndef dovetile_devices(): return [device('TAKEN')]",
            "other": "@hookimpl\ndef dovetile_devices(): return [device('KNOWN'), device('TAKEN')]",
        },
        "SLOW": {"backend-slow": "raise RuntimeError('half installed')"},
    }[name]
    causes = {"BAD": "missing_module_here", "KNOWN": "TAKEN is registered by both", "SLOW": "half"}
    manager = DeviceManager(plugins(**sources))
    with pytest.raises(DeviceError, match=causes[name]):
        manager.open(name)
