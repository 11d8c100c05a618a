"""Finds, imports and validates plugins, each in isolation: a broken one is recorded, and the
program goes on without it.

pluggy's own entry-point loading imports every plugin with no protection, so one broken
distribution would stop every program. Ours catches what a plugin raises and refuses only it.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from dovetile import environment
from dovetile.errors import EnvironmentVariableError, PluginError, suggest
from dovetile.plugins import hookspec
from dovetile.plugins.specs import (
    PLUGIN_API,
    Capabilities,
    CollectiveSpec,
    CommandSpec,
    CompilerSpec,
    DeviceSpec,
    DTypeSpec,
    ImporterSpec,
    PassSpec,
    RendererSpec,
)


class PluginState(Enum):
    LOADED = "loaded"
    FAILED = "failed"
    """It could not be imported, or broke a rule of the plugin API; `PluginRecord.error` says."""
    DISABLED = "disabled"
    """`DOVETILE_PLUGINS` leaves it out."""


@dataclass
class PluginRecord:
    """What became of one entry point."""

    name: str
    """The entry point's name."""
    module: str
    """The entry point's value."""
    distribution: str
    """The distribution that brings it; `-` where there is none."""
    version: str
    api: tuple[int, int] | None = None
    """The plugin API it was written for, as far as it got to tell."""
    state: PluginState = PluginState.LOADED
    error: str | None = None
    """One line for the user."""
    details: str | None = None
    """The traceback, where an exception was raised."""
    provides: tuple[str, ...] = ()
    """What it registered or wanted to, as ``device ABACUS``, ``command tune``, ..."""

    @property
    def owner(self) -> str:
        """The plugin in words, for messages."""
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass
class PluginRegistry:
    """The plugins of one process and what they brought.

    Args:
        entries: entry points to load; None: those of the installed distributions.
    """

    entries: Iterable[EntryPoint] | None = None
    records: list[PluginRecord] = field(default_factory=list, init=False)
    """One per entry point, in load order (by name, then distribution)."""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._loaded = False
        self._manager = pluggy.PluginManager(hookspec.PROJECT)
        self._manager.add_hookspecs(hookspec)
        self._specs: list[Any] = []
        # Who owns a name: (kind, name) -> plugin.
        self._owners: dict[tuple[str, str], PluginRecord] = {}

    def load(self) -> PluginRegistry:
        """Load all plugins, once; returns self. Never raises for a broken plugin."""
        with self._lock:
            if not self._loaded:
                entries = _discover(self.entries)
                wanted = _wanted([entry.name for entry in entries])
                # Before the loop, so that a plugin which asks for the registry does not recurse.
                self._loaded = True
                for entry in entries:
                    record = _record(entry)
                    self.records.append(record)
                    if wanted(entry.name):
                        self._load_one(entry, record)
                    else:
                        names = ",".join(environment.DOVETILE_PLUGINS.value)
                        record.state = PluginState.DISABLED
                        record.error = f"left out by DOVETILE_PLUGINS={names}"
        return self

    def _load_one(self, entry: EntryPoint, record: PluginRecord) -> None:
        try:
            plugin = entry.load()
            _check_api(plugin, record)
            self._register(plugin, record)
        # SystemExit too: a module that exits while it is imported must not end the program.
        except (Exception, SystemExit) as error:
            record.state = PluginState.FAILED
            known = isinstance(error, (PluginError, pluggy.PluginValidationError))
            record.error = str(error) if known else f"{type(error).__name__}: {error}"
            record.details = traceback.format_exc()

    def _register(self, plugin: object, record: PluginRecord) -> None:
        name = f"{record.name}@{record.distribution}"
        try:
            self._manager.register(plugin, name)
            self._check_hook_names(plugin)
            specs = [
                spec
                for hook, expected in hookspec.HOOKS.items()
                for spec in self._call(hook, expected, plugin)
            ]
            record.provides = tuple(" ".join(_key(spec)) for spec in specs)
            # All or nothing: a refused plugin leaves no half of itself behind.
            owners = dict(self._owners)
            for key in (key for spec in specs for key in _claims(spec)):
                if key in owners:
                    raise PluginError(
                        f"[plugins] {' '.join(key)} is registered by both {owners[key].owner} and "
                        f"{record.owner}; the later is refused: uninstall one of them, or leave "
                        f"one out with DOVETILE_PLUGINS=-{record.name}"
                    )
                owners[key] = record
        except BaseException:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            raise
        self._specs += specs
        self._owners = owners

    def _check_hook_names(self, plugin: object) -> None:
        for caller in self._manager.get_hookcallers(plugin) or ():
            optional = any(
                implementation.optionalhook
                for implementation in caller.get_hookimpls()
                if implementation.plugin is plugin
            )
            if not caller.has_spec() and not optional:
                raise PluginError(
                    f"[plugins] there is no hook {caller.name!r}; "
                    + suggest(caller.name, list(hookspec.HOOKS))
                )

    def _call(self, hook: str, expected: type, plugin: object) -> Sequence[Any]:
        """What this plugin alone returns for a hook, checked."""
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        caller = self._manager.subset_hook_caller(hook, others)
        specs: list[Any] = []
        for returned in caller():
            if not isinstance(returned, (list, tuple)):
                raise PluginError(
                    f"[plugins] {hook} returned {type(returned).__name__}; it must return a list "
                    f"of {expected.__name__}"
                )
            for spec in returned:
                if not isinstance(spec, expected):
                    raise PluginError(
                        f"[plugins] {hook} returned a {type(spec).__name__}; its list must hold "
                        f"only {expected.__name__}"
                    )
            specs.extend(returned)
        return specs

    # -- What was registered -----------------------------------------------------------------

    def _of_kind(self, kind: str) -> list[Any]:
        self.load()
        return [spec for spec in self._specs if _KINDS[type(spec)] == kind]

    def devices(self) -> list[DeviceSpec]:
        """All devices, by falling priority, then by name."""
        return sorted(self._of_kind("device"), key=lambda spec: (-spec.priority, spec.name))

    def compilers(self, device: str) -> list[CompilerSpec]:
        """The compilers of a device in order of preference: its own, then those of other plugins.

        Renderers are filled in; None is left where nobody renders the compiler's language.
        """
        own = [c for spec in self.devices() if spec.name == device for c in spec.compilers]
        added = [compiler for compiler in self._of_kind("compiler") if compiler.device == device]
        renderers = {spec.language: spec.renderer for spec in self._of_kind("renderer")}
        return [
            replace(compiler, renderer=compiler.renderer or renderers.get(compiler.language))
            for compiler in own + added
        ]

    def passes(self, stage: str, capabilities: Capabilities) -> list[PassSpec]:
        """The passes of a stage that want this target, in the order they run."""
        return ordered([p for p in self._of_kind("pass") if p.stage == stage], capabilities)

    def dtypes(self) -> list[DTypeSpec]:
        return self._of_kind("dtype")

    def importers(self) -> list[ImporterSpec]:
        return self._of_kind("importer")

    def commands(self) -> list[CommandSpec]:
        return self._of_kind("command")

    def collectives(self) -> list[CollectiveSpec]:
        """All collectives, by falling priority, then by name."""
        return sorted(self._of_kind("collective"), key=lambda spec: (-spec.priority, spec.name))

    def owner(self, kind: str, name: str) -> PluginRecord:
        """The plugin that brought ``device ABACUS`` or the like. Raises KeyError."""
        self.load()
        return self._owners[kind, name]


def ordered(passes: list[PassSpec], capabilities: Capabilities) -> list[PassSpec]:
    """Sort passes topologically by `before` and `after`, and by name where these leave a choice.

    Raises PluginError where the wishes form a circle.
    """
    waiting = {p.name: p for p in sorted(passes, key=lambda p: p.name) if p.accepts(capabilities)}
    result: list[PassSpec] = []
    while waiting:
        ready = next(
            (
                p
                for p in waiting.values()
                if not any(name in waiting for name in p.after)
                and not any(p.name in other.before for other in waiting.values())
            ),
            None,
        )
        if ready is None:
            raise PluginError(
                f"[plugins] the passes {', '.join(waiting)} want to run before each other in a "
                "circle; drop one of their `before` or `after`"
            )
        result.append(waiting.pop(ready.name))
    return result


# -- Helpers -----------------------------------------------------------------------------------

_KINDS: dict[type, str] = {
    DeviceSpec: "device",
    CompilerSpec: "compiler",
    RendererSpec: "renderer",
    CollectiveSpec: "collective",
    PassSpec: "pass",
    DTypeSpec: "dtype",
    ImporterSpec: "importer",
    CommandSpec: "command",
}


def _key(spec: Any) -> tuple[str, str]:
    kind = _KINDS[type(spec)]
    if isinstance(spec, CompilerSpec):
        return kind, f"{spec.device}:{spec.name}"
    return kind, spec.language if isinstance(spec, RendererSpec) else spec.name


def _claims(spec: Any) -> list[tuple[str, str]]:
    """All names that a spec claims for itself alone."""
    if isinstance(spec, DeviceSpec):
        names = [("device", name) for name in (spec.name, *spec.aliases)]
        return names + [_key(compiler) for compiler in spec.compilers]
    return [_key(spec)]


def _discover(entries: Iterable[EntryPoint] | None) -> list[EntryPoint]:
    """Entry points by name and distribution, each once (an editable install can show up twice)."""
    if entries is None:
        entries = entry_points(group=hookspec.PROJECT)
    unique = {(e.name, e.value, e.dist.name if e.dist else "-"): e for e in entries}
    return [unique[key] for key in sorted(unique, key=lambda key: (key[0], key[2], key[1]))]


def _record(entry: EntryPoint) -> PluginRecord:
    distribution = entry.dist
    if distribution is None:
        return PluginRecord(entry.name, entry.value, "-", "-")
    return PluginRecord(entry.name, entry.value, distribution.name, distribution.version)


def _wanted(installed: list[str]) -> Callable[[str], bool]:
    names = environment.DOVETILE_PLUGINS.value
    denied = {name[1:] for name in names if name.startswith("-")}
    allowed = {name for name in names if not name.startswith("-")}
    text = f"[environment] DOVETILE_PLUGINS={','.join(names)!r}"
    if denied and allowed:
        valid = environment.DOVETILE_PLUGINS.valid
        raise EnvironmentVariableError(f"{text} both allows and denies; valid are: {valid}")
    for name in sorted((allowed | denied).difference(installed)):
        raise EnvironmentVariableError(
            f"{text}: no plugin {name!r} is installed; {suggest(name, installed)}"
        )
    return lambda name: name not in denied and (not allowed or name in allowed)


def _check_api(plugin: object, record: PluginRecord) -> None:
    stated = getattr(plugin, "DOVETILE_PLUGIN_API", None)
    ours = ".".join(map(str, PLUGIN_API))
    if not (
        isinstance(stated, tuple) and len(stated) == 2 and all(isinstance(n, int) for n in stated)
    ):
        raise PluginError(
            f"[plugins] {record.owner} states DOVETILE_PLUGIN_API = {stated!r}; it must be the "
            f"(major, minor) it was written for, for example {PLUGIN_API}"
        )
    record.api = stated
    newer = stated > PLUGIN_API
    same = stated[0] == PLUGIN_API[0] and (stated[1] == PLUGIN_API[1] or PLUGIN_API[0] > 0)
    if newer or not same:
        fix = (
            "pip install --upgrade dovetile-core"
            if newer
            else (f"pip install --upgrade {record.distribution}")
        )
        raise PluginError(
            f"[plugins] {record.owner} is written for plugin API {stated[0]}.{stated[1]}, and this "
            f"core has {ours}; {fix}"
        )


_registry = PluginRegistry()


def registry() -> PluginRegistry:
    """The registry of this process; its plugins are loaded at first use."""
    return _registry.load()
