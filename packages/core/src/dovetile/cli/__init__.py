"""The ``dovetile`` command; plugins may add subcommands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dovetile import __version__
from dovetile.cli import cache, doctor, environment, profile
from dovetile.errors import DovetileError
from dovetile.plugins.loader import PluginRegistry, registry
from dovetile.plugins.specs import CommandSpec

OWN_COMMANDS = (doctor.COMMAND, cache.COMMAND, environment.COMMAND, profile.COMMAND)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status: 0 success, 1 failure, 2 wrong usage."""
    try:
        chosen = _parser(_commands(registry())).parse_args(arguments)
        return chosen.run(chosen)
    except DovetileError as error:
        print(f"dovetile: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader, `head` for example, has seen enough.
        sys.stderr.close()
        return 1


def _commands(plugins: PluginRegistry) -> list[CommandSpec]:
    """Our commands, then those of plugins; a plugin cannot take over one of ours."""
    own = {command.name for command in OWN_COMMANDS}
    added = []
    for command in plugins.commands():
        if command.name in own:
            owner = plugins.owner("command", command.name).owner
            print(
                f"dovetile: the command {command.name!r} of {owner} is ignored: it is Dovetile's",
                file=sys.stderr,
            )
        else:
            added.append(command)
    return [*OWN_COMMANDS, *sorted(added, key=lambda command: command.name)]


def _parser(commands: list[CommandSpec]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dovetile", description="A deep-learning tensor compiler whose devices plug in."
    )
    parser.add_argument("--version", action="version", version=f"dovetile {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands:
        subparser = subparsers.add_parser(
            command.name, help=command.summary, description=command.summary
        )
        subparser.set_defaults(run=command.run)
        command.configure(subparser)
    return parser
