"""From ``DEV=`` and ``device=`` to an open Device.

An explicit choice that cannot be met fails, with the recorded cause and the fix. Where the user
chose nothing, the usable device of highest priority is taken and the others are passed over
quietly (their reasons are kept for `dovetile doctor`).
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dovetile import environment
from dovetile.errors import DeviceError, DovetileError, suggest
from dovetile.plugins.loader import PluginRegistry, PluginState, registry
from dovetile.plugins.specs import CompilerSpec, DeviceSpec, ProbeResult, Selection

if TYPE_CHECKING:
    from dovetile.runtime import Device


@dataclass(frozen=True)
class Request:
    """A device as the user writes it: ``NAME[:COMPILER[:ARCHITECTURE]][:INDEX]``."""

    device: str
    compiler: str | None = None
    architecture: str | None = None
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> Request:
        """Read a request. Raises DeviceError where it has another form."""
        device, *rest = text.strip().split(":")
        request = cls(device.upper())
        words = [part for part in rest if not part.isdecimal()]
        numbers = [int(part) for part in rest if part.isdecimal()]
        if not device or "" in rest or len(words) > 2 or len(numbers) > 1:
            raise DeviceError(
                f"[device] {text!r} names no device; the form is NAME, NAME:INDEX, NAME:COMPILER, "
                "NAME:COMPILER:ARCHITECTURE or NAME:COMPILER:INDEX"
            )
        return replace(
            request,
            compiler=words[0].upper() if words else None,
            architecture=words[1] if len(words) == 2 else None,
            index=numbers[0] if numbers else 0,
        )

    def __str__(self) -> str:
        index = str(self.index) if self.index else None
        parts = (self.device, self.compiler, self.architecture, index)
        return ":".join(part for part in parts if part)


class DeviceManager:
    """Chooses and opens devices out of a registry. Thread-safe; each device is opened once."""

    def __init__(self, plugins: PluginRegistry) -> None:
        self.plugins = plugins
        self._lock = threading.RLock()
        self._probes: dict[str, ProbeResult] = {}
        self._open: dict[str, Device] = {}
        # Devices by the text that was asked for and the value of DEV then.
        self._named: dict[tuple[str, str], Device] = {}
        self._default: str | None = None

    # -- Choosing ----------------------------------------------------------------------------

    def default_name(self) -> str:
        """The name of the default device: what ``DEV`` says, or the best that is usable."""
        chosen = environment.DEV.value
        if chosen:
            return self.open(chosen).name
        if self._default is None:
            with self._lock:
                self._default = self._default or self._best()
        return self._default

    def _best(self) -> str:
        reasons: list[str] = []
        for spec in self.plugins.devices():
            try:
                return self.open(spec.name).name
            except DovetileError as error:
                reasons.append(f"\n  {spec.name}: {error}")
                if environment.DEBUG.value >= 1:
                    print(f"dovetile: passing over {spec.name}: {error}", file=sys.stderr)
        reasons += [f"\n  {text}" for text in self._failures()]
        raise DeviceError(
            "[device] no device is usable; install a backend (pip install dovetile-backend-NAME) "
            "and see `dovetile doctor`" + ("." + "".join(reasons) if reasons else "")
        )

    def open(self, name: str) -> Device:
        """The device of that name, opened at its first use.

        Raises DeviceError where the name is unknown or the device or compiler cannot be used;
        the message has the recorded cause and the fix.
        """
        # The common case is a device that is open; it must not cost a parse.
        default = environment.DEV.value
        device = self._named.get((name, default))
        if device is None:
            with self._lock:
                request = self._resolved(Request.parse(name), default)
                key = str(request)
                if key not in self._open:
                    self._open[key] = self._open_now(request)
                device = self._named[name, default] = self._open[key]
        return device

    def _resolved(self, request: Request, default: str) -> Request:
        """The one request for a device out of the several ways to write it.

        A compiler that `default` (the value of ``DEV``) names holds for its device however the
        device is asked for. A compiler that would be taken anyway is not part of the name.
        """
        spec = self.spec(request.device)
        request = replace(request, device=spec.name)
        if request.compiler is None and default:
            chosen = Request.parse(default)
            if chosen.device in (spec.name, *spec.aliases):
                request = replace(
                    request, compiler=chosen.compiler, architecture=chosen.architecture
                )
        if request.compiler is not None and request.architecture is None:
            usable = (c for c in self.plugins.compilers(spec.name) if availability(c) is None)
            first = next(usable, None)
            if first is not None and first.name == request.compiler:
                request = replace(request, compiler=None)
        return request

    def _open_now(self, request: Request) -> Device:
        spec = self.spec(request.device)
        probe = self.probe(spec)
        if probe.count == 0:
            raise DeviceError(f"[device] {spec.name} cannot be used here: {probe.reason}")
        if request.index >= probe.count:
            raise DeviceError(
                f"[device] {request}: there is no index {request.index}; this machine has "
                f"{probe.count} of {spec.name}, valid are 0 to {probe.count - 1}"
            )
        if request.architecture is not None and request.architecture not in spec.architectures:
            raise DeviceError(
                f"[device] {request}: {spec.name} offers no architecture {request.architecture!r}; "
                + suggest(request.architecture, spec.architectures)
            )
        compiler = self._compiler(spec, request)
        selection = Selection(str(request), request.index, compiler, request.architecture)
        try:
            return spec.open(selection)
        except DovetileError:
            raise
        except Exception as error:
            owner = self.plugins.owner("device", spec.name).owner
            raise DeviceError(
                f"[device] {request} failed to open: {type(error).__name__}: {error}; "
                f"it comes from the plugin {owner}"
            ) from error

    def _compiler(self, spec: DeviceSpec, request: Request) -> CompilerSpec:
        compilers = self.plugins.compilers(spec.name)
        if request.compiler is not None:
            chosen = next((c for c in compilers if c.name == request.compiler), None)
            if chosen is None:
                raise DeviceError(
                    f"[device] {request}: {spec.name} has no compiler {request.compiler!r}; "
                    + suggest(request.compiler, [c.name for c in compilers])
                )
            reason = availability(chosen)
            if reason is not None:
                raise DeviceError(f"[device] {request}: {chosen.name} is not available: {reason}")
            return chosen
        reasons: list[str] = []
        for compiler in compilers:
            reason = availability(compiler)
            if reason is None:
                return compiler
            reasons.append(f"\n  {compiler.name}: {reason}")
        raise DeviceError(
            f"[device] {request}: no compiler of {spec.name} is available; make one so:"
            + ("".join(reasons) or "\n  no plugin brings one")
        )

    # -- Looking up --------------------------------------------------------------------------

    def spec(self, name: str) -> DeviceSpec:
        """The device of this name or alias. Raises DeviceError with the recorded cause."""
        specs = self.plugins.devices()
        for spec in specs:
            if name == spec.name or name in spec.aliases:
                return spec
        wanted = name.lower().replace("_", "-")
        causes = [
            f"\n  {record.owner}: {record.error}"
            for record in self.plugins.records
            if record.state is not PluginState.LOADED
            and (
                f"device {name}" in record.provides
                or wanted in (record.name, *record.distribution.lower().split("-"))
            )
        ]
        if causes:
            raise DeviceError(
                f"[device] {name} cannot be used, because its plugin was refused:" + "".join(causes)
            )
        names = [n for spec in specs for n in (spec.name, *spec.aliases)]
        others = self._failures()
        raise DeviceError(
            f"[device] no plugin brings a device {name!r}; {suggest(name, names)}. "
            f"If {name} is right: pip install dovetile-backend-{wanted}"
            + ("." if others else "")
            + "".join(f"\n  {text}" for text in others)
        )

    def probe(self, spec: DeviceSpec) -> ProbeResult:
        """What the device's `probe` says, asked once; an exception counts as no device."""
        with self._lock:
            if spec.name not in self._probes:
                try:
                    self._probes[spec.name] = spec.probe()
                except Exception as error:
                    self._probes[spec.name] = ProbeResult(
                        0, f"its probe raised {type(error).__name__}: {error}"
                    )
            return self._probes[spec.name]

    def _failures(self) -> list[str]:
        return [
            f"plugin {record.owner} was refused: {record.error}"
            for record in self.plugins.load().records
            if record.state is PluginState.FAILED
        ]


def availability(compiler: CompilerSpec) -> str | None:
    """None where the compiler can be used here, else why not; an exception is a reason too."""
    if compiler.renderer is None:
        return f"no plugin brings a renderer for the language {compiler.language!r}"
    try:
        return compiler.available()
    except Exception as error:
        return f"its check raised {type(error).__name__}: {error}"


_manager: DeviceManager | None = None
_manager_lock = threading.Lock()


def manager() -> DeviceManager:
    """The device manager of this process."""
    global _manager
    if _manager is None:
        with _manager_lock:
            _manager = _manager or DeviceManager(registry())
    return _manager


def open_device(name: str) -> Device:
    """The device of that name (``"NAME"``, ``"NAME:1"``, ``"NAME:COMPILER"``), opened once.

    Raises DeviceError where it is unknown or cannot be used, with the cause and the fix.
    """
    return manager().open(name)


def default_device_name() -> str:
    """The name of the default device: ``DEV``, or the usable one of highest priority."""
    return manager().default_name()
