"""What all optimisers share: parameter groups, state, and one realisation per step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy

from dovetile import Tensor, dtypes, no_grad
from dovetile.errors import ArgumentError, ShapeError


class ParameterGroup(dict[str, Any]):
    """A group's parameters and hyperparameters, by PyTorch's keys.

    `lr` is held on the device too (`learning_rate`, a 0-d float32 tensor); setting `group["lr"]`
    updates it in place: a captured step reads the new value. The other hyperparameters are part of
    the step's arithmetic; setting one raises ArgumentError.
    """

    untracked_by_jit = frozenset({"lr", "initial_lr"})  # captured steps read `learning_rate`

    def __init__(self, optimizer_name: str, values: Mapping[str, Any]):
        super().__init__(values)
        self._optimizer_name = optimizer_name
        self.learning_rate = scalar(float(self["lr"]), self["params"][0].device)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "lr":
            with no_grad():
                rate = self.learning_rate
                rate.assign(scalar(float(value), rate.device)).realize()
        elif key in self and key != "initial_lr" and self[key] != value:
            raise ArgumentError(
                f"[{self._optimizer_name}] {key} cannot change from {self[key]!r} to {value!r}: "
                "it is part of the compiled step; make another optimizer with the new value"
            )
        super().__setitem__(key, value)

    def load(self, values: Mapping[str, Any]) -> None:
        """Take over the hyperparameters of a state dict's group."""
        for key, value in values.items():
            if key in ("lr", "initial_lr"):
                self[key] = float(value)
            elif key in self and key != "params":
                self[key] = tuple(value) if isinstance(value, list) else value

    def hyperparameters(self) -> dict[str, Any]:
        """Everything but the parameters, as plain Python values."""
        return {key: value for key, value in self.items() if key != "params"}


class Optimizer(ABC):
    """Base of all optimisers. A subclass gives `initial_state` and `update`.

    `parameters` is an iterable of tensors or of mappings with a `params` key which override
    `defaults` for their group. Raises ArgumentError where it is empty, names a parameter twice or
    holds something that is not a Tensor or does not require a gradient.

    `state[i]` belongs to the i-th parameter, counted through all groups, and holds its tensors by
    PyTorch's names. Steps are counted on the device, so that a captured step goes on counting;
    parameters of a group which have always been updated together share one counter.
    """

    def __init__(
        self, parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]], defaults: dict[str, Any]
    ):
        self.defaults = defaults
        self.param_groups: list[ParameterGroup] = []
        self.state: list[dict[str, Tensor]] = []
        entries: list[Any] = list(parameters)
        if not entries:
            raise ArgumentError(f"[{self._name}] got no parameters; pass model.parameters()")
        if isinstance(entries[0], Mapping):
            groups = [dict(entry, params=_as_list(entry["params"])) for entry in entries]
        else:
            groups = [{"params": entries}]
        for values in groups:
            self._check_parameters(values["params"])
            self._check_hyperparameters({**defaults, **values})
            group = ParameterGroup(self._name, {**defaults, **values})
            self.param_groups.append(group)
            counters: dict[str, Tensor] = {}
            if self.counts_steps(group):
                counters["step"] = scalar(0.0, group["params"][0].device)
            for parameter in group["params"]:
                self.state.append({**counters, **self.initial_state(parameter, group)})
        # Parameters made by a chain of operations become plain buffers here, once, so that no step
        # computes their initial values again.
        Tensor.realize(*self._tensors())

    # What a subclass says.

    def counts_steps(self, group: ParameterGroup) -> bool:
        """Whether the arithmetic depends on how many steps a parameter has had."""
        return True

    @abstractmethod
    def initial_state(self, parameter: Tensor, group: ParameterGroup) -> dict[str, Tensor]:
        """The state tensors a parameter begins with, without its step counter."""

    def shared(self, step: Tensor | None, group: ParameterGroup) -> tuple[Tensor, ...]:
        """0-d tensors which all parameters of `group` with the counter `step` use in `update`."""
        return (group.learning_rate,)

    @abstractmethod
    def update(
        self,
        parameter: Tensor,
        gradient: Tensor,
        state: dict[str, Tensor],
        group: ParameterGroup,
        shared: tuple[Tensor, ...],
    ) -> None:
        """Assign, lazily, the parameter's and its state's next values; not its step counter's."""

    # What a user calls.

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or with `set_to_none=False` set those that exist to zero."""
        for parameter, _ in self._parameters():
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad = parameter.grad.zeros_like()

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update every parameter that has a gradient and realise all of it together.

        `closure`, where given, computes the loss and the gradients first; its loss is returned.
        """
        loss = closure() if closure is not None else None
        with no_grad():
            self._separate_counters()
            shared: dict[tuple[int, int], tuple[Tensor, ...]] = {}
            for (parameter, group), state in zip(self._parameters(), self.state):
                if parameter.grad is None:
                    continue
                counter = state.get("step")
                key = (id(group), id(counter))
                if key not in shared:
                    if counter is not None:
                        counter.assign(counter + 1)
                    shared[key] = self.shared(counter, group)
                gradient = parameter.grad.cast(parameter.dtype)
                gradient = -gradient if group["maximize"] else gradient
                self.update(parameter, gradient, state, group, shared[key])
            Tensor.realize(*([] if loss is None else [loss]), *self._tensors())
        return loss

    def _separate_counters(self) -> None:
        """Give parameters updated in this step a counter apart from those left out of it."""
        left_out = {
            id(state["step"])
            for (parameter, _), state in zip(self._parameters(), self.state)
            if parameter.grad is None and "step" in state
        }
        copies: dict[int, Tensor] = {}
        for (parameter, _), state in zip(self._parameters(), self.state):
            counter = state.get("step")
            if parameter.grad is not None and counter is not None and id(counter) in left_out:
                if id(counter) not in copies:
                    copies[id(counter)] = scalar(counter.item(), counter.device)
                state["step"] = copies[id(counter)]

    def state_dict(self) -> dict[str, Any]:
        """State and hyperparameters in PyTorch's layout: `{"state": ..., "param_groups": ...}`.

        The tensors in it are the optimiser's own; copy them to keep a moment in time.
        """
        groups: list[dict[str, Any]] = []
        first = 0
        for group in self.param_groups:
            last = first + len(group["params"])
            groups.append({**group.hyperparameters(), "params": list(range(first, last))})
            first = last
        state = {index: dict(tensors) for index, tensors in enumerate(self.state) if tensors}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state dict of this optimiser's kind, from here or from PyTorch.

        Its tensors may be Dovetile tensors or anything NumPy can read. Raises ShapeError where
        shapes differ, ArgumentError where groups or names do, or where a hyperparameter other than
        the learning rate is not the one this optimiser was made with. Keys it does not know are
        ignored.
        """
        loaded_groups = state_dict["param_groups"]
        ours = [len(group["params"]) for group in self.param_groups]
        theirs = [len(group["params"]) for group in loaded_groups]
        if ours != theirs:
            raise ArgumentError(
                f"[{self._name}] the state dict's groups hold {theirs} parameters; "
                f"this optimizer's {ours}"
            )
        values = [
            self._matched(index, tensors, state_dict["state"].get(index))
            for index, tensors in enumerate(self.state)
        ]
        for group, loaded in zip(self.param_groups, loaded_groups):
            group.load(loaded)
        self._load_counters([float(value.get("step", 0.0)) for value in values])
        with no_grad():
            for tensors, value in zip(self.state, values):
                for name in value.keys() - {"step"}:
                    tensor = tensors[name]
                    tensor.assign(Tensor(value[name], dtype=tensor.dtype, device=tensor.device))
            Tensor.realize(*self._tensors())

    def _matched(
        self, index: int, tensors: dict[str, Tensor], loaded: Mapping[str, Any] | None
    ) -> dict[str, numpy.ndarray]:
        """One parameter's loaded state, checked; its initial values where there is none."""
        if not loaded:
            return {name: numpy.zeros(tuple(tensor.shape)) for name, tensor in tensors.items()}
        values: dict[str, numpy.ndarray] = {}
        for name, tensor in tensors.items():
            # PyTorch's SGD keeps no counter: a state that exists has had its first step.
            value = loaded.get(name, 1.0 if name == "step" else None)
            if value is None:
                raise ArgumentError(f"[{self._name}] the state dict lacks {name} of {index}")
            values[name] = value.numpy() if isinstance(value, Tensor) else numpy.asarray(value)
            if values[name].shape != tuple(tensor.shape):
                raise ShapeError(
                    f"[{self._name}] {name} of parameter {index} has shape {values[name].shape}; "
                    f"expected {tuple(tensor.shape)}"
                )
        return values

    def _load_counters(self, steps: list[float]) -> None:
        """Set the counters; parameters that share one go on sharing it where their steps agree."""
        counters: dict[tuple[int, float], Tensor] = {}
        taken: set[int] = set()
        for state, step in zip(self.state, steps):
            counter = state.get("step")
            if counter is None:
                continue
            key = (id(counter), step)
            if key not in counters and id(counter) not in taken:
                # In place: a captured step reads this very buffer.
                counters[key] = counter.assign(scalar(step, counter.device))
                taken.add(id(counter))
            elif key not in counters:
                counters[key] = scalar(step, counter.device)
            state["step"] = counters[key]

    # Helpers.

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _parameters(self) -> list[tuple[Tensor, ParameterGroup]]:
        return [(parameter, group) for group in self.param_groups for parameter in group["params"]]

    def _tensors(self) -> list[Tensor]:
        tensors = [parameter for parameter, _ in self._parameters()]
        tensors += [group.learning_rate for group in self.param_groups]
        tensors += [tensor for state in self.state for tensor in state.values()]
        return list({id(tensor): tensor for tensor in tensors}.values())

    def _check_parameters(self, parameters: list[Any]) -> None:
        seen = {id(parameter) for parameter, _ in self._parameters()}
        for position, parameter in enumerate(parameters):
            if not isinstance(parameter, Tensor):
                raise ArgumentError(
                    f"[{self._name}] parameter {position} is a {type(parameter).__name__}; "
                    "parameters are Tensors"
                )
            if not parameter.requires_grad:
                raise ArgumentError(
                    f"[{self._name}] parameter {position} of shape {tuple(parameter.shape)} does "
                    "not require a gradient; make it with requires_grad=True"
                )
            if id(parameter) in seen:
                raise ArgumentError(f"[{self._name}] parameter {position} was given twice")
            seen.add(id(parameter))

    def _check_hyperparameters(self, values: Mapping[str, Any]) -> None:
        for key in ("lr", "weight_decay", "momentum", "eps"):
            if not float(values.get(key, 0.0)) >= 0.0:
                raise ArgumentError(f"[{self._name}] {key} is {values[key]}; it must be at least 0")
        for beta in values.get("betas", ()):
            if not 0.0 <= beta < 1.0:
                raise ArgumentError(
                    f"[{self._name}] betas are {values['betas']}; each must be in [0, 1)"
                )


def scalar(value: float, device: Any) -> Tensor:
    """A 0-d float32 tensor, memory from the start: an array, since numbers are constants."""
    return Tensor(numpy.asarray(value), dtype=dtypes.float32, device=device)


def zeros_like(parameter: Tensor) -> Tensor:
    """Zeros of a parameter's shape and dtype, memory from the start."""
    return Tensor(numpy.zeros(parameter.shape), dtype=parameter.dtype, device=parameter.device)


def _as_list(parameters: Any) -> list[Any]:
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)
