"""Environment variables: one table, each variable typed, validated and documented.

A variable is read from the process environment when its value is first asked for, and kept.
Within a process, change it with :func:`context`:

    >>> from dovetile import environment
    >>> with environment.context(DEBUG=2):
    ...     environment.DEBUG.value
    2
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from dovetile.errors import DovetileWarning, EnvironmentVariableError, suggest

Value = TypeVar("Value")

PREFIX = "DOVETILE_"

# What `context` has set, for this thread (and this asynchronous task) only.
_overrides: contextvars.ContextVar[Mapping[str, object]] = contextvars.ContextVar(
    "dovetile_environment", default=MappingProxyType({})
)
_UNREAD = object()
_reloads = 0


class Variable(Generic[Value]):
    """One environment variable.

    Args:
        name: as written in the environment.
        default: makes the value when the variable is unset or empty.
        parse: turns the text into the value; raises ValueError when it cannot.
        valid: the accepted values, in words, for error messages and the docs.
        summary: what the variable does, for the docs.
    """

    def __init__(
        self,
        name: str,
        default: Callable[[], Value],
        parse: Callable[[str], Value],
        valid: str,
        summary: str,
    ) -> None:
        self.name = name
        self.default = default
        self.parse = parse
        self.valid = valid
        self.summary = summary
        self._read: object = _UNREAD

    @property
    def value(self) -> Value:
        """The value now. Raises EnvironmentVariableError where the text is not valid."""
        overrides = _overrides.get()
        if overrides and self.name in overrides:
            return overrides[self.name]  # type: ignore[return-value]
        if self._read is _UNREAD:
            _warn_of_unknown_variables()
            text = os.environ.get(self.name, "").strip()
            self._read = self.parsed(text) if text else self.default()
        return self._read  # type: ignore[return-value]

    @property
    def is_set(self) -> bool:
        """Whether the user chose the value, be it here or in the environment."""
        return self.name in _overrides.get() or bool(os.environ.get(self.name, "").strip())

    def parsed(self, text: str) -> Value:
        """`text` as a value. Raises EnvironmentVariableError where it is not valid."""
        try:
            return self.parse(text)
        except ValueError:
            raise EnvironmentVariableError(
                f"[environment] {self.name}={text!r} is not valid; valid are: {self.valid}"
            ) from None

    def forget(self) -> None:
        """Read the environment again at the next use."""
        global _reloads
        _reloads += 1
        self._read = _UNREAD


# -- How texts become values -----------------------------------------------------------------


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if number < low or (high is not None and number > high):
            raise ValueError(text)
        return number

    return parse


def _flag(text: str) -> bool:
    words = {"0": False, "1": True}
    if text not in words:
        raise ValueError(text)
    return words[text]


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _bytes(text: str) -> int:
    number = text.upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:].isalpha() else ""
    count = float(number.removesuffix(unit))
    if unit not in _UNITS or not 0 <= count < 2**63:
        raise ValueError(text)
    return int(count * _UNITS[unit])


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ValueError(text)
    return names


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return parse


def _device(text: str) -> str:
    if not all(
        part and part.replace("_", "").replace("-", "").isalnum() for part in text.split(":")
    ):
        raise ValueError(text)
    return text


def _cache_directory() -> str:
    import platformdirs  # only a process without DOVETILE_CACHE_DIR pays for this import

    return platformdirs.user_cache_dir("dovetile", appauthor=False)


# -- The table -------------------------------------------------------------------------------

DEV: Variable[str] = Variable(
    "DEV",
    default=lambda: "",
    parse=_device,
    valid="NAME, NAME:INDEX, NAME:COMPILER, NAME:COMPILER:ARCHITECTURE (see `dovetile doctor`)",
    summary="The default device. Unset: the usable device of highest priority.",
)
DEBUG: Variable[int] = Variable(
    "DEBUG",
    default=lambda: 0,
    parse=_integer(0, 5),
    valid="an integer from 0 to 5",
    summary="What is printed to standard error, each level adding to those below: 1 notes (cache "
    "problems, fallbacks, recaptures), 2 each kernel with its time, 3 each kernel's Opts, "
    "4 its source, 5 its loops before and after the optimiser.",
)
CHECK: Variable[bool] = Variable(
    "CHECK",
    default=lambda: False,
    parse=_flag,
    valid="0 or 1",
    summary="Check every graph against the spec of its level after each pass.",
)
BEAM: Variable[int] = Variable(
    "BEAM",
    default=lambda: 0,
    parse=_integer(0, 1024),
    valid="an integer from 0 (heuristics only) to 1024",
    summary="Width of the beam search for kernel Opts.",
)
WINOGRAD: Variable[bool] = Variable(
    "WINOGRAD",
    default=lambda: True,
    parse=_flag,
    valid="0 or 1",
    summary="Do large convolutions with fewer multiplications, where that is faster. Results are "
    "off by about 1e-5 of their size (5e-5 at most) rather than 1e-6, and a number that is not "
    "finite makes NaN of its whole tile of results.",
)
MATMUL_PRECISION: Variable[str] = Variable(
    "MATMUL_PRECISION",
    default=lambda: "highest",
    parse=_one_of("highest", "high"),
    valid="highest or high",
    summary="Precision of float32 matrix products. high: matrix units may take fewer digits of the "
    "operands than these have (TF32: 10 of 23), which is faster, and off by about 1e-3.",
)
DOVETILE_THREADS: Variable[int] = Variable(
    "DOVETILE_THREADS",
    default=lambda: 0,
    parse=_integer(0, 4096),
    valid="an integer from 0 (all usable cores) to 4096",
    summary="Threads that run kernels on the host.",
)
DOVETILE_CACHE_DIR: Variable[str] = Variable(
    "DOVETILE_CACHE_DIR",
    default=_cache_directory,
    parse=os.path.expanduser,
    valid="a path",
    summary="Folder of the disk cache. Unset: `dovetile` in the user's cache folder.",
)
DOVETILE_CACHE_BYTES: Variable[int] = Variable(
    "DOVETILE_CACHE_BYTES",
    default=lambda: 2**30,
    parse=_bytes,
    valid="a number of bytes, or a number with K, M, G or T (of 1024)",
    summary="Bound on the size of the disk cache (1G unless set). 0: no disk cache.",
)
DOVETILE_PLUGINS: Variable[tuple[str, ...]] = Variable(
    "DOVETILE_PLUGINS",
    default=tuple,
    parse=_names,
    valid="entry-point names with commas between: `a,b` loads only these, `-a` all but a",
    summary="Which installed plugins are loaded. Unset: all.",
)

VARIABLES: Mapping[str, Variable] = MappingProxyType(
    {
        variable.name: variable
        for variable in (
            DEV,
            DEBUG,
            CHECK,
            BEAM,
            WINOGRAD,
            MATMUL_PRECISION,
            DOVETILE_THREADS,
            DOVETILE_CACHE_DIR,
            DOVETILE_CACHE_BYTES,
            DOVETILE_PLUGINS,
        )
    }
)


@contextlib.contextmanager
def context(**values: object) -> Iterator[None]:
    """Set variables for the code inside, in this thread: ``with context(DEBUG=2, BEAM=4): ...``.

    Values are validated as their text would be; a tuple is joined with commas.
    Raises EnvironmentVariableError for unknown names and values that are not valid.
    """
    parsed: dict[str, object] = {}
    for name, value in values.items():
        if name not in VARIABLES:
            raise EnvironmentVariableError(
                f"[environment] there is no variable {name!r}; {suggest(name, list(VARIABLES))}"
            )
        if isinstance(value, bool):
            value = int(value)
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        variable = VARIABLES[name]
        parsed[name] = variable.parsed(text) if text else variable.default()
    token = _overrides.set(MappingProxyType({**_overrides.get(), **parsed}))
    try:
        yield
    finally:
        _overrides.reset(token)


def reload() -> None:
    """Forget what was read, so that changes to ``os.environ`` are seen."""
    for variable in VARIABLES.values():
        variable.forget()


def table() -> str:
    """The variables as a Markdown table, for the docs."""
    lines = ["| variable | valid values | what it does |", "|---|---|---|"]
    lines += [f"| `{v.name}` | {v.valid} | {v.summary} |" for v in VARIABLES.values()]
    return "\n".join(lines) + "\n"


_unknown_warned: set[str] = set()


def _warn_of_unknown_variables() -> None:
    """A misspelt variable must not be silently without effect."""
    for name in os.environ:
        if not name.startswith(PREFIX) or name in VARIABLES or name in _unknown_warned:
            continue
        _unknown_warned.add(name)
        hint = suggest(name, list(VARIABLES))
        warnings.warn(
            f"[environment] {name} is set, but Dovetile knows no such variable; {hint}",
            DovetileWarning,
            stacklevel=4,
        )


def version() -> tuple[object, int]:
    """Equal to what it was before as long as every variable is: cheaper than to ask for each."""
    return _overrides.get(), _reloads


def settings() -> tuple[object, ...]:
    """The values that decide what code is generated; part of the keys of plans."""
    return (BEAM.value, WINOGRAD.value, MATMUL_PRECISION.value)
