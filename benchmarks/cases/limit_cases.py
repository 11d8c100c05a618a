"""The machine's limit for a row, as a contender which does the row's work in the least time."""

from __future__ import annotations

import numpy
from inputs import Case
from peak import Limit
from rows import Row


def limit(row: Row) -> Case:
    """A call does what the row must do at least: its operations, or its traffic."""
    measured = Limit(*row.limit)
    return Case(measured.run, lambda _: numpy.zeros(0), measured.repeats)
