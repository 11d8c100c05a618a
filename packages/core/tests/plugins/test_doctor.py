from __future__ import annotations

from dovetile.cli.doctor import report
from dovetile.plugins.selection import DeviceManager

MIXED = {
    "good": """
    @hookimpl
    def dovetile_devices():
        return [device("GOOD", aliases=("FINE",), reasons={"ONE": "pip install one"}),
                device("ABSENT", count=0, priority=3)]
    """,
    "importerror": "import missing_module_here",
    "newer": "DOVETILE_PLUGIN_API = (99, 0)",
    "twin": "@hookimpl\ndef dovetile_devices(): return [device('GOOD')]",
    "probes": """
    def explode(*_): raise OSError("driver fell over")
    @hookimpl
    def dovetile_devices():
        return [DeviceSpec("PROBES", probe=explode, open=Device, compilers=())]
    """,
}


def test_the_doctor_tells_of_everything_and_goes_on(plugins, capsys):
    tests: list[str] = []
    assert report(DeviceManager(plugins(**MIXED)), False, tests.append)
    assert tests == ["GOOD:TWO"]  # only what is available of what is usable
    text = capsys.readouterr().out
    for expected in (
        "dovetile-good 1.0",
        "No module named 'missing_module_here'",
        "is written for plugin API 99.0",
        "device GOOD is registered by both good (dovetile-good 1.0) and twin (dovetile-twin 1.0)",
        "GOOD (FINE): usable",
        "compiler ONE (text): not available: pip install one",
        "compiler TWO (text): works",
        "ABSENT: not usable: [device] ABSENT cannot be used here: there is none in this machine",
        "PROBES: not usable: [device] PROBES cannot be used here: its probe raised OSError",
    ):
        assert expected in text
    assert text.rstrip().endswith("Default device\n  GOOD")


def test_the_doctor_tells_how_a_device_is_reached(plugins, capsys):
    far = """
    @hookimpl
    def dovetile_devices():
        near = device("FAR")
        return [DeviceSpec("FAR", lambda: ProbeResult(1, "over a bridge"), near.open,
                           near.compilers)]
    """
    assert report(DeviceManager(plugins(far=far)), False, lambda name: None)
    assert "FAR: usable, over a bridge" in capsys.readouterr().out


def test_without_a_usable_device_the_doctor_says_so(plugins, capsys):
    bad = plugins(bad="import missing_module_here")
    assert not report(DeviceManager(bad), True, lambda name: None)
    text = capsys.readouterr().out
    assert "none: [device] no device is usable" in text
    assert "Traceback (most recent call last)" in text


def test_without_plugins(tmp_path, capsys):
    from dovetile.plugins import PluginRegistry

    assert not report(DeviceManager(PluginRegistry([])), False, lambda name: None)
    assert "pip install dovetile-backend-NAME" in capsys.readouterr().out


def test_a_compiler_that_fails_its_self_test_is_told(plugins, capsys):
    good = plugins(good="@hookimpl\ndef dovetile_devices(): return [device('GOOD')]")
    report(DeviceManager(good), False, lambda name: "killed" if name == "GOOD:ONE" else None)
    text = capsys.readouterr().out
    assert "compiler ONE (text): BROKEN: killed" in text
    assert "compiler TWO (text): works" in text
