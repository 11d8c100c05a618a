"""Every exception and warning that Dovetile raises, in one tree.

Each class also inherits the builtin that users of PyTorch and NumPy would catch, so
``except ValueError`` works where they expect it. Messages have the form
``[op] what came; what would be right``.
"""

from __future__ import annotations

from collections.abc import Sequence


class DovetileError(Exception):
    """Base of all errors raised by Dovetile and its plugins."""


class DovetileWarning(UserWarning):
    """Base of all warnings: something is not as asked, but the program goes on."""


# -- What the user wrote ---------------------------------------------------------------------


class ArgumentError(DovetileError, ValueError):
    """An argument has a value that the operation does not accept."""


class ShapeError(DovetileError, ValueError):
    """Shapes or sizes do not fit the operation."""


class DTypeError(DovetileError, TypeError):
    """Element types do not fit the operation, or the device cannot hold them."""


class IndexOutOfRangeError(DovetileError, IndexError):
    """An index or a dimension number lies outside its range."""


class GradientError(DovetileError, RuntimeError):
    """A gradient was asked for where none can be computed."""


class JitError(DovetileError, RuntimeError):
    """A function cannot be captured, or a captured step cannot be replayed as it was called."""


class EnvironmentVariableError(DovetileError, ValueError):
    """An environment variable has a value outside those that it may take."""


class FileFormatError(DovetileError, ValueError):
    """A file is not of the format it should be, or is damaged."""


# -- Devices and plugins ---------------------------------------------------------------------


class DeviceError(DovetileError, RuntimeError):
    """A device is unknown, cannot be used, or was asked for something it cannot do."""


class DeviceFault(DeviceError):
    """A kernel failed while it ran; the message names the kernel."""


class OutOfMemoryError(DeviceError, MemoryError):
    """A device has no room for an allocation. What was allocated before stays usable."""


class CompileError(DovetileError, RuntimeError):
    """A compiler refused the source of a kernel, or crashed on it."""


class PluginError(DovetileError, RuntimeError):
    """A plugin breaks the rules of the plugin API."""


# -- Ourselves -------------------------------------------------------------------------------


class GraphError(DovetileError, RuntimeError):
    """A graph breaks the spec of its level: a mistake in Dovetile or in a plugin's pass."""


class UnsupportedError(DovetileError, NotImplementedError):
    """The operation is well formed, but is not supported (yet) in this form."""


def suggest(name: str, valid: Sequence[str]) -> str:
    """The end of a message about an unknown name: the nearest valid one, and all of them."""
    import difflib  # only an error pays for this import

    close = difflib.get_close_matches(name, valid, n=1)
    listed = f"valid are: {', '.join(valid) or 'none'}"
    return f"did you mean {close[0]!r}? {listed}" if close else listed
