from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dovetile import cache, cli, environment
from dovetile.cli.table import quantity, table
from dovetile.plugins import CommandSpec


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOVETILE_CACHE_DIR", str(tmp_path))
    environment.reload()
    yield
    environment.reload()


def test_cache_show_and_clear(capsys, tmp_path):
    cache.put("kernel", "one", {}, bytes(2000))
    cache.put("beam", "two", {}, b"")
    assert cli.main(["cache"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][0] == str(tmp_path)
    assert ["kernel", "1", "2.0", "KiB"] in lines
    assert lines[-1][:2] == ["total", "2"]
    assert cli.main(["cache", "clear", "kernel"]) == 0
    assert "removed 1 entries" in capsys.readouterr().out
    assert cache.get("kernel", "one") is None
    assert cache.get("beam", "two") is not None
    assert cli.main(["cache", "clear"]) == 0
    assert cache.get("beam", "two") is None


def test_cache_of_a_bad_namespace_fails_with_a_message(capsys):
    assert cli.main(["cache", "clear", "../.."]) == 1
    assert "[cache] namespace" in capsys.readouterr().err


def test_env(capsys, monkeypatch):
    monkeypatch.setenv("BEAM", "7")
    assert cli.main(["env"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["BEAM"][:2] == ["7", "set"]
    assert set(environment.VARIABLES) < set(rows)
    assert cli.main(["env", "--markdown"]) == 0
    assert capsys.readouterr().out == environment.table()
    monkeypatch.setenv("BEAM", "many")
    environment.reload()
    assert cli.main(["env"]) == 1
    assert "NOT VALID" in capsys.readouterr().out


def test_wrong_usage(capsys):
    for arguments in ([], ["frobnicate"], ["cache", "burn"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2
    assert "doctor" in capsys.readouterr().err


def test_python_m_dovetile(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "dovetile", "env"],
        capture_output=True,
        text=True,
        env={**os.environ, "DEBUG": "0"},
    )
    assert result.returncode == 0 and str(tmp_path) in result.stdout


def test_a_plugin_adds_a_command_but_takes_none_over(capsys):
    class Plugins:
        def commands(self):
            return [
                CommandSpec(
                    "tune",
                    "tunes",
                    lambda arguments: arguments.strings,
                    lambda parser: parser.add_argument("--strings", type=int) and None,
                ),
                CommandSpec("doctor", "quack", lambda arguments: 99),
            ]

        def owner(self, kind, name):
            assert (kind, name) == ("command", "doctor")
            return type("Record", (), {"owner": "duck (duck 1.0)"})

    commands = cli._commands(Plugins())  # type: ignore[arg-type]
    assert [command.name for command in commands] == ["doctor", "cache", "env", "profile", "tune"]
    assert "'doctor' of duck (duck 1.0) is ignored" in capsys.readouterr().err
    chosen = cli._parser(commands).parse_args(["tune", "--strings", "6"])
    assert chosen.run(chosen) == 6


def test_tables():
    assert table(("a", "b"), [("long", 1), ("x", "")]) == "a     b\nlong  1\nx"
    assert [quantity(n) for n in (5, 1536, 2**21, 2**50)] == [
        "5 bytes",
        "1.5 KiB",
        "2.0 MiB",
        "1024.0 TiB",
    ]
