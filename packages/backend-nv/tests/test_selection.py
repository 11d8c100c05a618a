"""Which interface is taken, and what the user is told of it."""

from __future__ import annotations

import pytest

from dovetile import environment
from dovetile.errors import DeviceError, EnvironmentVariableError
from dovetile_nv import plugin, selection


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch):
    """Says what is wrong with the two interfaces."""

    def state(raw: str | None, libcuda: str | None, asked: str = "") -> None:
        monkeypatch.setattr(selection, "raw_problem", lambda: raw)
        monkeypatch.setattr(selection, "libcuda_problem", lambda: libcuda)
        monkeypatch.setenv("NV_INTERFACE", asked)
        selection.NV_INTERFACE.forget()

    yield state
    monkeypatch.undo()
    selection.NV_INTERFACE.forget()


def test_the_raw_queue_comes_first(problems):
    problems(None, None)
    assert selection.choose() == ("RAW", "its probe passed")


def test_libcuda_where_the_raw_queue_cannot_be_used(problems):
    problems("no such file", None)
    assert selection.choose() == ("LIBCUDA", "RAW cannot be used: no such file")


@pytest.mark.parametrize("asked", ["RAW", "LIBCUDA", "libcuda"])
def test_either_can_be_asked_for(problems, asked: str):
    problems(None, None, asked)
    assert selection.choose() == (asked.upper(), "as NV_INTERFACE says")


def test_what_was_asked_for_is_not_replaced(problems):
    problems("no such file", None, "RAW")
    assert selection.choose() == (None, "RAW: no such file")
    with pytest.raises(DeviceError, match="no GPU can be used; RAW: no such file"):
        selection.open_interface(0)


def test_without_any_both_reasons_are_told(problems):
    problems("no such file", "no library")
    (device,) = plugin.dovetile_devices()
    probe = device.probe()
    assert (probe.count, probe.reason) == (0, "RAW: no such file; LIBCUDA: no library")


def test_the_probe_says_how_the_gpu_is_reached(problems, monkeypatch: pytest.MonkeyPatch):
    problems("no such file", None)
    monkeypatch.setattr(selection, "count", lambda: 2)
    (device,) = plugin.dovetile_devices()
    probe = device.probe()
    assert (probe.count, probe.reason) == (2, "over LIBCUDA: RAW cannot be used: no such file")


def test_other_words_are_refused(problems):
    problems(None, None, "FAST")
    with pytest.raises(EnvironmentVariableError, match="NV_INTERFACE='FAST'.*LIBCUDA"):
        selection.choose()
    assert "NV_INTERFACE" not in environment.VARIABLES  # core names no vendor
