from __future__ import annotations

import threading

import pytest

from dovetile import environment
from dovetile.environment import context
from dovetile.errors import DovetileWarning, EnvironmentVariableError


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    environment.reload()
    yield
    environment.reload()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DEBUG", "3", 3),
        ("DEBUG", "", 0),
        ("CHECK", "1", True),
        ("BEAM", " 4 ", 4),
        ("DOVETILE_CACHE_BYTES", "1000", 1000),
        ("DOVETILE_CACHE_BYTES", "1.5K", 1536),
        ("DOVETILE_CACHE_BYTES", "2GiB", 2**31),
        ("DOVETILE_CACHE_BYTES", "2gb", 2**31),
        ("DOVETILE_PLUGINS", "a, -b", ("a", "-b")),
        ("DOVETILE_CACHE_DIR", "/tmp/x", "/tmp/x"),
        ("DEV", "ABACUS:FAST:gfx-1", "ABACUS:FAST:gfx-1"),
    ],
)
def test_values(monkeypatch, name, text, value):
    monkeypatch.setenv(name, text)
    assert environment.VARIABLES[name].value == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DEBUG", "yes"),
        ("DEBUG", "99"),
        ("DEBUG", "-1"),
        ("CHECK", "true"),
        ("BEAM", "1.5"),
        ("DOVETILE_CACHE_BYTES", "-1"),
        ("DOVETILE_CACHE_BYTES", "5Q"),
        ("DOVETILE_CACHE_BYTES", "nan"),
        ("DOVETILE_CACHE_BYTES", "infinity"),
        ("DOVETILE_THREADS", "all"),
        ("DOVETILE_PLUGINS", "a,,b"),
        ("DEV", "A B"),
        ("DEV", ":1"),
    ],
)
def test_bad_values_are_errors_that_say_what_is_valid(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(EnvironmentVariableError) as caught:
        _ = environment.VARIABLES[name].value
    assert f"{name}={text!r}" in str(caught.value)
    assert environment.VARIABLES[name].valid in str(caught.value)
    with pytest.raises(ValueError):
        with context(**{name: text}):
            pass


def test_context_nests_restores_and_stays_in_its_thread():
    with context(DEBUG=2, CHECK=True):
        with context(DEBUG="3"):
            assert (environment.DEBUG.value, environment.CHECK.value) == (3, True)
            seen = []
            thread = threading.Thread(target=lambda: seen.append(environment.DEBUG.value))
            thread.start()
            thread.join()
            assert seen == [0]
        assert environment.DEBUG.value == 2
    assert (environment.DEBUG.value, environment.CHECK.value) == (0, False)
    with context(DOVETILE_PLUGINS=("a", "b")):
        assert environment.DOVETILE_PLUGINS.value == ("a", "b")


def test_context_restores_after_an_exception():
    with pytest.raises(KeyError), context(DEBUG=2):
        raise KeyError
    assert environment.DEBUG.value == 0


def test_context_of_an_unknown_variable():
    with pytest.raises(EnvironmentVariableError, match="did you mean 'DEBUG'"):
        with context(DEBGU=1):
            pass


def test_an_unknown_variable_of_ours_warns_with_a_suggestion_once(monkeypatch, recwarn):
    monkeypatch.setenv("DOVETILE_CACHE_DRI", "x")
    with pytest.warns(DovetileWarning, match="did you mean 'DOVETILE_CACHE_DIR'"):
        _ = environment.DEBUG.value
    environment.reload()
    _ = environment.DEBUG.value
    assert len(recwarn) == 0


def test_the_default_cache_folder_is_the_users():
    assert environment.DOVETILE_CACHE_DIR.value.endswith("dovetile")


def test_the_table_tells_every_variable():
    lines = environment.table().splitlines()
    assert len(lines) == 2 + len(environment.VARIABLES)
    assert all(line.count("|") == 4 for line in lines)


def test_the_version_changes_with_every_value(monkeypatch):
    first = environment.version()
    assert environment.version() == first
    with context(BEAM=2):
        inside = environment.version()
        assert inside != first
        with context(DEBUG=1):
            assert environment.version() not in (first, inside)
        assert environment.version() == inside
    assert environment.version() == first
    environment.reload()
    assert environment.version() != first
