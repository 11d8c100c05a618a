"""`jit`: captures what a function does, and replays it."""

from __future__ import annotations

import functools
import os
import sys
import threading
import types
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

from dovetile import environment, schedule
from dovetile.capture.arguments import Arguments, detached, result_tensors
from dovetile.capture.build import Capture, Unsteady
from dovetile.capture.step import Step
from dovetile.capture.surroundings import Surroundings
from dovetile.errors import ArgumentError, JitError
from dovetile.profiling import stage
from dovetile.runtime import Buffer
from dovetile.tensor import base, is_grad_enabled, live_tensors, realize_all
from dovetile.tensor.base import TensorBase

Function = TypeVar("Function", bound=Callable[..., Any])

_lock = threading.RLock()  # held by whoever captures or replays
_inside: ContextVar[bool] = ContextVar("inside_jit", default=False)
_MOST_CAPTURES = 32
_MOST_UNSTEADY = 4


def _after_fork() -> None:
    """The thread that held the lock, if any, does not exist in the child."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass
class _Entry:
    """What is known of calls with one key."""

    steps: list[Step] = field(default_factory=list)
    unsteady: int = 0  # how often in a row a capture could not be kept
    since_replay: int = 0  # captures since the last replay


class _Last:
    """The last replay: a call with the very same arguments needs none of what led to it."""

    __slots__ = ("_context", "_identities", "_kept", "_nodes", "_numbers", "memory", "step")

    def __init__(self, call: Arguments, memory: list[Buffer], step: Step) -> None:
        # The Tensors may go; their nodes are memory, which the step keeps anyway. No other value
        # may take the identity of one of these.
        self._kept = [value for value in call.args if not isinstance(value, TensorBase)]
        self._identities = tuple(map(id, call.args))
        self._numbers = [self._identities.index(id(tensor)) for tensor in call.tensors]
        self._nodes = [tensor.uop for tensor in call.tensors]
        self._context = environment.version(), is_grad_enabled()
        self.memory = memory
        self.step = step

    def tensors_of(self, args: tuple) -> list[TensorBase] | None:
        """The Tensors among the arguments of a call; None where it is not the same call."""
        if tuple(map(id, args)) != self._identities or base.has_pending_writes():
            return None
        tensors = [args[number] for number in self._numbers]
        for tensor, node in zip(tensors, self._nodes):
            if not isinstance(tensor, TensorBase) or tensor.uop is not node or tensor.requires_grad:
                return None
        same = self._context == (environment.version(), is_grad_enabled())
        return tensors if same else None


class JitFunction(Generic[Function]):
    """A function whose calls are captured and replayed. Made by :func:`jit`."""

    def __init__(self, function: Function, most_captures: int = _MOST_CAPTURES) -> None:
        self.function = function
        self.most_captures = most_captures
        self._entries: dict[object, _Entry] = {}
        self._last: _Last | None = None
        functools.update_wrapper(self, function)

    def __repr__(self) -> str:
        return f"<jit {getattr(self.function, '__qualname__', self.function)}>"

    def __reduce__(self) -> Any:
        if isinstance(self.function, types.MethodType):
            return type(None), ()  # belongs to an object: a copy of that makes its own
        return self.function.__qualname__

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        attributes = getattr(instance, "__dict__", None)
        name = f"{self.function.__name__} (jit)"
        bound = None if attributes is None else attributes.get(name)
        if attributes is None:
            raise JitError(
                f"[jit] {self.function.__qualname__} belongs to a class without a __dict__ to keep "
                "captures in; add '__dict__' to its __slots__"
            )
        if bound is None or bound.function.__self__ is not instance:
            method = types.MethodType(self.function, instance)
            bound = attributes[name] = JitFunction(method, self.most_captures)
        return bound

    @property
    def captures(self) -> list[Step]:
        """The captured steps, oldest first within the same kind of arguments."""
        return [step for entry in self._entries.values() for step in entry.steps]

    def reset(self) -> None:
        """Forget all captures, and with them the memory that they hold."""
        with _lock:
            self._entries.clear()
            self._last = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _inside.get():
            return self.function(*args, **kwargs)  # part of what is being run or captured
        with _lock:
            last = self._last
            if last is not None and not kwargs:
                tensors = last.tensors_of(args)
                if tensors is not None and last.step.changed() is None:
                    return last.step.replay(tensors, last.memory)
            return self._call(Arguments(args, kwargs))

    # -- which capture -------------------------------------------------------------------------

    def _call(self, call: Arguments) -> Any:
        self._last = None
        tensors, memory, stand_ins = _ready(call.tensors)
        key = (
            call.key,
            _sharing(memory),
            is_grad_enabled(),
            environment.DEV.value,
            environment.settings(),
        )
        entry = self._entries.get(key)
        if entry is None:
            self._check_count()
            result = self._run(call)
            self._entries[key] = _Entry()
            return result
        reason = "it is called for the second time"
        for step in entry.steps:
            mismatch = step.mismatch(tensors, memory)
            if mismatch is None:
                entry.since_replay = 0
                if tensors is call.tensors and call.is_plain:
                    self._last = _Last(call, memory, step)
                return step.replay(tensors, memory)
            reason = mismatch
        entry.steps = [step for step in entry.steps if not step.is_dead]
        return self._capture(call, tensors, stand_ins, entry, reason)

    def _check_count(self, reason: str = "its arguments differ each time") -> None:
        count = len(self._entries) + len(self.captures)
        waiting = sum(entry.since_replay for entry in self._entries.values())
        if max(count // 2, len(self.captures), waiting) >= self.most_captures:
            raise JitError(
                f"[jit] {self.function.__qualname__} was captured {self.most_captures} times and "
                f"needs another capture: {reason}; pass what changes as a Tensor, or raise "
                "jit(most_captures=...)"
            )

    # -- running and capturing -----------------------------------------------------------------

    def _run(self, call: Arguments) -> Any:
        """The function as it is, with its effects on memory carried out."""
        known = {id(t): t for t in live_tensors()}
        token = _inside.set(True)
        try:
            with stage("tensor"):
                result = self.function(*call.args, **call.kwargs)
            results = result_tensors(result)
            realize_all([*results, *(t for t in live_tensors() if id(t) not in known)])
        finally:
            _inside.reset(token)
        return detached(result, {id(t) for t in results} - set(known))

    def _capture(
        self,
        call: Arguments,
        tensors: list[TensorBase],
        stand_ins: dict[int, TensorBase],
        entry: _Entry,
        reason: str,
    ) -> Any:
        self._check_count(reason)
        if environment.DEBUG.value:
            print(f"jit: {self.function.__qualname__} is captured: {reason}", file=sys.stderr)
        args, kwargs = call.replaced(stand_ins) if stand_ins else (call.args, call.kwargs)
        surroundings = Surroundings(self.function, call.objects, tensors)
        capture = Capture(lambda: self.function(*args, **kwargs), tensors, surroundings)
        token = _inside.set(True)
        try:
            result, step = capture.run()
        except Unsteady as unsteady:
            entry.unsteady += 1
            if entry.unsteady >= _MOST_UNSTEADY:
                raise JitError(
                    f"[jit] {self.function.__qualname__} cannot be captured: {unsteady} in every "
                    "call; a replay runs no Python: keep such things out of the function"
                ) from None
            return capture.result
        finally:
            _inside.reset(token)
        stood_in = {id(stand_in) for stand_in in stand_ins.values()}
        for number, role in enumerate(step.inputs):
            if role.is_written and id(tensors[number]) in stood_in:
                raise JitError(
                    f"[jit] tensor argument {number} is a view of a larger tensor and is assigned "
                    "to; pass the whole tensor"
                )
        entry.unsteady = 0
        entry.since_replay += 1
        entry.steps.append(step)
        return result


def _ready(
    given: list[TensorBase],
) -> tuple[list[TensorBase], list[Buffer], dict[int, TensorBase]]:
    """(the Tensors, realised, their memory, stand-ins by the identity of what they stand for)."""
    memory = [schedule.whole_memory(t.uop) for t in given]
    if base.has_pending_writes() or None in memory:
        realize_all(given)
        memory = [schedule.whole_memory(t.uop) for t in given]
    if None not in memory:
        return given, memory, {}  # type: ignore[return-value]
    tensors = list(given)
    stand_ins: dict[int, TensorBase] = {}
    for number, tensor in enumerate(given):
        if memory[number] is None:
            if tensor._buffer is not None:  # a part of larger memory
                stand_in = type(tensor)._new(tensor.uop)
                stand_ins[id(tensor)] = tensors[number] = tensor = stand_in
            tensor._own_memory()
    realize_all(tensors)
    return tensors, [schedule.buffer_of(t.uop) for t in tensors], stand_ins


def _sharing(memory: list[Buffer]) -> tuple[int, ...] | None:
    """None where each argument has its own memory; else the first that has the same, for each."""
    identities = [id(buffer) for buffer in memory]
    if len(set(identities)) == len(identities):
        return None
    return tuple(map(identities.index, identities))


@overload
def jit(function: Function) -> Function: ...
@overload
def jit(*, most_captures: int = _MOST_CAPTURES) -> Callable[[Function], Function]: ...
def jit(function: Any = None, *, most_captures: int = _MOST_CAPTURES) -> Any:
    """Make a function that does on the device what `function` did, without running its Python.

    The first call with arguments of a kind runs as it is written. The second is captured: every
    kernel that it runs goes into one command list, and later calls only replay that list. For

    >>> from dovetile import Tensor, jit
    >>> @jit
    ... def double(x):
    ...     return x * 2
    >>> [double(Tensor([float(i)])).item() for i in range(4)]
    [0.0, 2.0, 4.0, 6.0]

    * Tensors among the arguments (also in tuples, lists and dicts) may have other values each time.
      Another shape, dtype, device, or another value of any other argument is another capture.
    * Tensors that the function reaches in other ways are state: assigns to them, and attributes
      set to new Tensors, take place at every replay.
    * Python values that it reads are watched; where one has changed, it is captured again. Other
      effects on Python (prints, counters) happen at captures only.
    * Results are new Tensors each time, without a graph: gradients are computed inside. Tensors
      that the function leaves elsewhere (such as `grad` of parameters) are overwritten at replays.

    Args:
        most_captures: how many captures to keep; needing more is an error, for each costs memory,
            and as much time as several plain calls.

    Raises JitError where the function cannot be captured: it returns other values than Tensors,
    asks for values of Tensors, or depends on Python values that change in every call.
    """
    if most_captures < 1:
        raise ArgumentError(f"[jit] most_captures={most_captures}; it must be at least 1")
    if function is None:
        return lambda function: JitFunction(function, most_captures)
    if not callable(function):
        raise ArgumentError(f"[jit] {function!r}; it must be a function")
    return JitFunction(function, most_captures)
