"""Makes a step of a recording: which memory plays which role in a replay."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from dovetile import schedule
from dovetile.capture.arguments import detached, map_tree, result_tensors
from dovetile.capture.lists import Replayable
from dovetile.capture.recording import Recording, buffers_of, root_of
from dovetile.capture.results import Fresh, Place
from dovetile.capture.step import Input, Owner, Result, State, Step
from dovetile.capture.surroundings import Surroundings
from dovetile.errors import JitError
from dovetile.ir.held import attach, realized
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.profiling import stage
from dovetile.runtime import Buffer, Copy, Counters, Device, Launch
from dovetile.schedule.run import copy
from dovetile.tensor import base, no_grad, realize_all, renewal
from dovetile.tensor.base import TensorBase

Maker = Callable[[Sequence[TensorBase], Sequence[Place]], TensorBase]
"""Makes one Tensor of a replay's result of its inputs and of the places of the fresh results."""


class Unsteady(Exception):
    """The function set up things that later calls find: they must be captured instead."""


class Capture:
    """Runs a function, records it and makes a Step of it.

    Args:
        function: takes no arguments. tensors: the Tensors among its arguments, each all of its
        memory. surroundings: of the function, as it is before it runs.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        tensors: Sequence[TensorBase],
        surroundings: Surroundings,
    ) -> None:
        self.function = function
        self.tensors = tensors
        self.surroundings = surroundings
        self.recording = Recording()
        self.result: Any = None
        """The result of the run, where no step can be made of it."""
        self.moved: set[tuple[int, int]] = set()
        self.carried: dict[int, UOp] = {}
        """What Tensors were that have moved to the memory of those before them, by identity."""
        self.end: list[Copy] = []
        """Copies after everything else: results that stay in use, state that moves on."""

    def run(self) -> tuple[Any, Step]:
        """(the function's result, the step). Raises Unsteady, JitError, and what the function
        raises."""
        renewal.renew_all()
        self.before = base.live_tensors()
        self.first = Buffer.next_number()
        known = {id(t) for t in self.before}
        self.owners: dict[int, list[TensorBase]] = {}
        for tensor in self.before:
            memory = schedule.memory_of(tensor.uop)
            if memory is not None:
                self.owners.setdefault(id(memory), []).append(tensor)
        self.memory = [self._memory(t) for t in self.tensors]
        values = self.surroundings.values = self.surroundings.read()
        token = schedule.recording.set(self.recording)
        try:
            with stage("tensor"):
                result = self.function()
            results = result_tensors(result)
            self.escaped = [
                t
                for t in base.live_tensors()
                if id(t) not in known and not any(t is r for r in results)
            ]
            realize_all([*results, *self.escaped])
            self.result = detached(result, {id(t) for t in results} - known)
        finally:
            schedule.recording.reset(token)
        changed = self.surroundings.same_sizes()
        if changed is not None:
            raise Unsteady(changed)
        self.used = {
            id(b): b for _, c in self.recording.commands for b in map(root_of, buffers_of(c))
        }
        states, expected = self._states(values, self.surroundings.read())
        self._settle([*self.escaped, *(t for t in results if id(t) not in known)])
        inputs = self._inputs(states)
        build, kept = self._result(result, results, states, known)
        step = self._step(inputs, states, expected, build)
        return kept, step

    def _memory(self, tensor: TensorBase) -> Buffer:
        memory = schedule.whole_memory(tensor.uop)
        if memory is None:
            raise JitError(f"[jit] a tensor of shape {tensor.shape} could not be realised")
        return memory

    # -- state ---------------------------------------------------------------------------------

    def _states(self, before: list[Any], after: list[Any]) -> tuple[list[State], list[Any]]:
        """(the places that the function has set, what all places must hold at a replay)."""
        states: list[State] = []
        expected = list(after)
        for index, (old, new) in enumerate(zip(before, after)):
            if old is new:
                continue
            tensors = isinstance(old, TensorBase), isinstance(new, TensorBase)
            if not any(tensors):
                if not isinstance(new, (bool, int, float, complex, str, bytes, type(None))):
                    raise Unsteady(f"{self.surroundings.label(index)} was set to another object")
                continue
            takes_any = False
            if tensors[0]:
                takes_any = not self._is_read(old)
                if tensors[1] and not takes_any:
                    self._carry(old, new, index)
                elif not tensors[1]:
                    expected[index] = old
            else:
                expected[index] = old
            value = new if tensors[1] else None
            states.append(State(index, value, self.surroundings.setter(index), takes_any))
            if not tensors[1] and new is not None:
                raise Unsteady(f"{self.surroundings.label(index)} was set to another object")
        return states, expected

    def _is_read(self, tensor: TensorBase) -> bool:
        memory = schedule.memory_of(tensor.uop)
        return memory is None or id(root_of(memory)) in self.used

    def _carry(self, old: TensorBase, new: TensorBase, index: int) -> None:
        """The next replay is to find the new value where this one found the old one."""
        label = self.surroundings.label(index)
        target, source = schedule.memory_of(old.uop), schedule.memory_of(new.uop)
        if (id(old), id(new)) in self.moved:
            return
        if target is None or source is None or target is source:
            raise Unsteady(f"{label} was set to a view of itself or to a constant")
        if not any(new is t for t in self.escaped) and root_of(source).number < self.first:
            raise JitError(
                f"[jit] {label} is set to another tensor that existed before; a captured step "
                "cannot exchange tensors: assign() their values"
            )
        if old.shape != new.shape or old.dtype is not new.dtype:
            raise JitError(
                f"[jit] {label} goes from {old.dtype.name} {old.shape} to {new.dtype.name} "
                f"{new.shape}; what a captured step carries on must keep its shape and dtype"
            )
        if schedule.whole_memory(old.uop) is None:
            raise JitError(f"[jit] {label} is a view of a larger tensor; set it to a clone()")
        if new.requires_grad and new.is_leaf:
            raise JitError(
                f"[jit] {label} is set to a new tensor with requires_grad=True; a captured step "
                "keeps such tensors: assign() the new values"
            )
        again = any(identity == id(old) for identity, _ in self.moved)
        if again or any(memory is target for memory in self.memory) or self._is_elsewhere(old):
            raise Unsteady(f"{label} was set anew, while the old tensor has other uses")
        self.moved.add((id(old), id(new)))
        # In memory of its own: the old tensor may be in somebody's hands.
        state = Buffer(target.device, target.nbytes, target.dtype)
        self.end.append(Copy(state, source))
        copy(state, source)
        state.device.queue.submit()
        self.recording.replace(target, state)
        self.recording.written[id(state)] = state
        self.used[id(state)] = state
        self.carried[id(new)] = realized(new.uop)
        node = UOp.buffer(old.uop.size, old.dtype, state.device.name)
        attach(node, state)
        new.requires_grad = False
        new._release()
        new._adopt(node.reshape(new.shape))
        self.owners[id(state)] = [new]

    def _is_elsewhere(self, old: TensorBase) -> bool:
        """Whether the function can still reach a tensor that it has replaced in one place."""
        return any(value is old for value in self.surroundings.read())

    def _settle(self, tensors: list[TensorBase]) -> None:
        """Tensors made by the step are memory from now on: a replay builds no graph."""
        for tensor in tensors:
            if tensor._buffer is None and schedule.memory_of(tensor.uop) is not None:
                tensor.requires_grad = False
                tensor._adopt(_view(realized(tensor.uop)))

    # -- arguments -----------------------------------------------------------------------------

    def _inputs(self, states: list[State]) -> list[Input]:
        reachable = self.surroundings.tensors
        written = self.recording.written
        bound = {id(t) for t in self.tensors}
        inputs = []
        for tensor, memory in zip(self.tensors, self.memory):
            others = [t for t in self.owners.get(id(memory), ()) if id(t) not in bound]
            shared = bool(others) or id(tensor) in reachable and self._is_seen(tensor)
            gathers = tensor.requires_grad and any(s.value is tensor.grad for s in states)
            inputs.append(
                Input(
                    (),
                    memory,
                    id(memory) in written,
                    memory if shared or gathers else None,
                    tensor if gathers else None,
                )
            )
        return inputs

    def _is_seen(self, tensor: TensorBase) -> bool:
        """Whether the function can reach an argument on other ways too."""
        return any(value is tensor for value in self.surroundings.values)

    # -- results -------------------------------------------------------------------------------

    def _result(
        self, result: Any, results: list[TensorBase], states: list[State], known: set[int]
    ) -> tuple[Result, Any]:
        """(what builds the result of a replay, the result of this run)."""
        self.fresh: list[Fresh] = []
        numbers: dict[int, int] = {}
        makers: dict[int, Maker] = {}
        kept: dict[int, TensorBase] = {}
        stays = [s.value for s in states if s.value is not None] + self.escaped
        staying = {id(m) for t in stays if (m := schedule.memory_of(t.uop)) is not None}
        for tensor in results:
            number = next((i for i, t in enumerate(self.tensors) if t is tensor), None)
            if number is not None:
                makers[id(tensor)] = lambda tensors, _, i=number: tensors[i]
            elif id(tensor) in known:
                makers[id(tensor)] = lambda *_, t=tensor: t
            else:
                makers[id(tensor)], kept[id(tensor)] = self._made(tensor, staying, numbers)

        def build(tensors: Sequence[TensorBase], places: Sequence[Place]) -> Any:
            made: dict[int, TensorBase] = {}

            def leaf(value: Any) -> Any:
                if value is None:
                    return None
                if value not in made:
                    made[value] = makers[value](tensors, places)
                return made[value]

            return map_tree(leaf, template)

        template = map_tree(lambda t: None if t is None else id(t), result)
        if len(results) == 1 and isinstance(result, TensorBase):
            return makers[id(result)], kept.get(id(result), result)
        return build, map_tree(lambda t: kept.get(id(t), t), result)

    def _made(
        self, tensor: TensorBase, staying: set[int], numbers: dict[int, int]
    ) -> tuple[Maker, TensorBase]:
        """(what makes a result of a replay, the same of this run)."""
        kind = type(tensor)
        node = realized(tensor.uop)
        if id(tensor) in self.carried:
            node = self.carried[id(tensor)]
            tensor = _adopted(kind, _moves(node), _base(node))
        memory = schedule.memory_of(node)
        if memory is None:  # a constant
            return lambda *_: kind._new(node), tensor
        moves = _moves(node)
        number = next((i for i, m in enumerate(self.memory) if m is memory), None)
        if number is not None:

            def view_of_input(tensors: Sequence[TensorBase], _: Sequence[Place]) -> TensorBase:
                buffer = tensors[number]._buffer
                assert buffer is not None
                return _adopted(kind, moves, buffer)

            return view_of_input, tensor
        if root_of(memory).number < self.first:
            return self._view_of_state(kind, moves, memory), tensor
        if id(memory) not in numbers:
            numbers[id(memory)] = len(self.fresh)
            alone = id(memory) not in staying and id(memory) in self.recording.results
            if alone:
                self.fresh.append(Fresh(memory))
            else:
                other = Buffer(memory.device, memory.nbytes, memory.dtype)
                self.end.insert(0, Copy(other, memory))
                self.fresh.append(Fresh(other))
        index = numbers[id(memory)]
        fresh = self.fresh[index]
        if fresh.model is not memory:
            with no_grad():
                tensor = _with_own_memory(tensor)
        view = len(fresh.views)
        fresh.views.append(moves)
        return lambda _, places: places[index].tensor(kind, view), tensor

    def _view_of_state(
        self, kind: type[TensorBase], moves: list[UOp], memory: Buffer
    ) -> Callable[..., TensorBase]:
        owners = [weakref.ref(t) for t in self.owners.get(id(memory), ())]

        def view(*_: object) -> TensorBase:
            for reference in owners:
                owner = reference()
                if owner is not None and owner._buffer is not None:
                    return _adopted(kind, moves, owner._buffer)
            raise JitError("[jit] a result is a view of a tensor that no longer exists")

        return view

    # -- the step ------------------------------------------------------------------------------

    def _step(
        self, inputs: list[Input], states: list[State], expected: list[Any], build: Result
    ) -> Step:
        stays = [s.value for s in states if s.value is not None] + self.escaped
        staying = {id(m) for t in stays if (m := schedule.memory_of(t.uop)) is not None}
        preparations = self._preparations()
        work = self.recording.work
        for saved in preparations.values():
            work = work - saved
        recorded = self.recording.commands
        prepare = [recorded[number] for number in preparations]
        commands = self._restores(staying)
        commands += [c for number, c in enumerate(recorded) if number not in preparations]
        commands += [(c.destination.device, c) for c in self.end if c.source.nbytes]
        lists = Replayable(commands)
        free = {id(role.memory) for role in inputs if role.fixed is None}
        for role in inputs:
            role.slots = lists.slots(role.memory)
        results = {id(fresh.model) for fresh in self.fresh}
        used: dict[int, Buffer] = {}
        for _, command in (*prepare, *commands):
            for buffer in buffers_of(command):
                if id(buffer) not in free and id(buffer) not in results:
                    used[id(buffer)] = buffer
        fixed = {id(role.fixed) for role in inputs if role.fixed is not None}
        owners = []
        written = [weakref.ref(t) for t in self.escaped]
        for identity, buffer in used.items():
            showing = self.owners.get(identity, [])
            if showing and identity not in fixed:
                refs = [Owner(weakref.ref(t), t.uop) for t in showing]
                owners.append((buffer, refs))
            if identity in self.recording.written:
                written += [weakref.ref(t) for t in showing]
        fresh = [(f, lists.slots(f.model)) for f in self.fresh]
        return Step(
            lists, inputs, owners, used, written, self.surroundings, expected, states,
            self.recording.arrays(), fresh, work, build, Replayable(prepare) if prepare else None,
        )  # fmt: skip

    def _preparations(self) -> dict[int, Counters]:
        """Numbers, and work, of the commands that need not be done again while what they read stays
        the same: that must be from before the capture, no argument and not written by the step."""
        found = {}
        arguments = {id(root_of(memory)) for memory in self.memory}
        written = {id(root_of(memory)) for memory in self.recording.written.values()}
        for number, work in self.recording.preparations.items():
            roots = [root_of(b) for b in buffers_of(self.recording.commands[number][1])]
            known = [id(root) for root in roots if root.number < self.first]
            if len(known) == len(roots) - 1 and arguments.union(written).isdisjoint(known):
                found[number] = work
        return found

    def _restores(self, staying: set[int]) -> list[tuple[Device, Launch | Copy]]:
        """Host data that the step overwrites is put back before each replay."""
        copies: list[tuple[Device, Launch | Copy]] = []
        for identity, (memory, _, content) in self.recording.placed.items():
            if identity in self.recording.written and identity not in staying:
                pristine = Buffer.from_numpy(memory.device, content)
                copies.append((memory.device, Copy(memory, pristine)))
        return copies


def _moves(node: UOp) -> list[UOp]:
    """The movement ops from memory to a view of it, last first."""
    moves = []
    while node.op is not Op.BUFFER:
        if node.op is not Op.AFTER:
            moves.append(node)
        node = realized(node.src[0])
    return moves


def _base(node: UOp) -> UOp:
    """The BUFFER of a view of memory."""
    while node.op is not Op.BUFFER:
        node = realized(node.src[0])
    return node


def _view(node: UOp) -> UOp:
    """A view of memory without the history of the memory."""
    return _moved(_moves(node), _base(node))


def _moved(moves: list[UOp], node: UOp) -> UOp:
    for move in reversed(moves):
        node = UOp(move.op, move.dtype, (node, *move.src[1:]), move.arg)
    return node


def _adopted(kind: type[TensorBase], moves: list[UOp], buffer: UOp) -> TensorBase:
    tensor = kind._new(_moved(moves, buffer))
    tensor._attach(buffer)
    return tensor


def _with_own_memory(tensor: TensorBase) -> TensorBase:
    """A copy of a result, which replays do not overwrite."""
    copy = type(tensor)._new(tensor.uop)
    copy._own_memory()
    realize_all((copy,))
    return copy
