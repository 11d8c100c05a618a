"""``dovetile env``: the environment variables and their values here."""

from __future__ import annotations

import argparse

from dovetile import environment
from dovetile.cli.table import table
from dovetile.errors import EnvironmentVariableError
from dovetile.plugins.specs import CommandSpec


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--markdown", action="store_true", help="print the table of the documentation"
    )


def _run(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        print(environment.table(), end="")
        return 0
    status = 0
    rows = []
    for variable in environment.VARIABLES.values():
        try:
            value = repr(variable.value)
        except EnvironmentVariableError:
            value = "NOT VALID"
            status = 1
        rows.append((variable.name, value, "set" if variable.is_set else "", variable.valid))
    print(table(("variable", "value", "", "valid"), rows))
    return status


COMMAND = CommandSpec("env", "show the environment variables", _run, _configure)
