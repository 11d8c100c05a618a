"""The base of all layers: parameters, buffers and sub-modules by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy

from dovetile import Tensor, no_grad
from dovetile.errors import ArgumentError, ShapeError


class Module:
    """A layer or a model. A subclass sets attributes in `__init__` and gives `forward`.

    A Tensor attribute that requires a gradient becomes a parameter, a Module attribute a
    sub-module; `register_buffer` names tensors that belong to the state but are not trained. Names
    and their order in `state_dict()` are PyTorch's.

        >>> class Scale(Module):
        ...     def __init__(self, size: int):
        ...         super().__init__()
        ...         self.weight = Tensor.ones(size, requires_grad=True)
        ...     def forward(self, inputs):
        ...         return inputs * self.weight
        >>> list(Scale(3).state_dict())
        ['weight']
    """

    training: bool
    # Names of attributes, which captured functions see themselves.
    untracked_by_jit = frozenset({"_parameter_names", "_buffer_names", "_module_names"})

    def __init__(self) -> None:
        self.training = True
        # Names only, in order; the values are ordinary attributes.
        self._parameter_names: dict[str, None] = {}
        self._buffer_names: dict[str, None] = {}
        self._module_names: dict[str, None] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor | Module) and "_module_names" not in self.__dict__:
            raise AttributeError(
                f"[{type(self).__name__}] {name} was set before super().__init__(); call that first"
            )
        if isinstance(value, Module):
            self._module_names.setdefault(name)
        elif isinstance(value, Tensor) and value.requires_grad and name not in self._buffer_names:
            self._parameter_names.setdefault(name)
        super().__setattr__(name, value)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.forward(*arguments, **options)

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """What the module computes. Raises NotImplementedError where a subclass does not say."""
        raise NotImplementedError(f"[{type(self).__name__}] has no forward method")

    def register_buffer(self, name: str, tensor: Tensor | None) -> None:
        """Set `self.name` to a tensor that is saved with the parameters but not trained."""
        self._buffer_names.setdefault(name)
        setattr(self, name, tensor)

    # Walking.

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct sub-modules with their names."""
        for name in self._module_names:
            child = getattr(self, name)
            if isinstance(child, Module):
                yield name, child

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, each once, with dotted names."""
        waiting: list[tuple[str, Module]] = [(prefix, self)]
        seen: set[int] = set()
        while waiting:
            path, module = waiting.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield path, module
            waiting += reversed(
                [
                    (f"{path}.{name}" if path else name, child)
                    for name, child in module.named_children()
                ]
            )

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The trained tensors with dotted names; one that is shared appears once."""
        return self._named_tensors("_parameter_names")

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the state that are not trained, with dotted names."""
        return self._named_tensors("_buffer_names")

    def parameters(self) -> Iterator[Tensor]:
        """The trained tensors, for an optimiser."""
        return (tensor for _, tensor in self.named_parameters())

    def buffers(self) -> Iterator[Tensor]:
        """The tensors of the state that are not trained."""
        return (tensor for _, tensor in self.named_buffers())

    def _named_tensors(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name in getattr(module, kind):
                tensor = getattr(module, name)
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield (f"{path}.{name}" if path else name), tensor

    # Modes.

    def train(self, mode: bool = True) -> Module:
        """Set training mode (dropout drops, batch norm uses the batch) here and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Set evaluation mode here and below."""
        return self.train(False)

    # State.

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and buffers by dotted names, in PyTorch's order."""
        state: dict[str, Tensor] = {}
        for name in (*self._parameter_names, *self._buffer_names):
            tensor = getattr(self, name)
            if tensor is not None:
                state[prefix + name] = tensor
        for name, child in self.named_children():
            state.update(child.state_dict(f"{prefix}{name}."))
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Copy the values of `state_dict` into this module's tensors, in place.

        Values may be Dovetile tensors or anything NumPy can read (PyTorch's among them). Raises
        ArgumentError where names are missing or unknown (with `strict=False`: uses what fits),
        ShapeError where a shape differs; in both cases nothing has been changed.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state_dict]
        unknown = [name for name in state_dict if name not in own]
        if strict and (missing or unknown):
            raise ArgumentError(
                f"[load_state_dict] {type(self).__name__} lacks values for {_listed(missing)} and "
                f"does not know {_listed(unknown)}; pass strict=False to load what fits"
            )
        values = {name: _as_array(state_dict[name]) for name in own if name in state_dict}
        for name, value in values.items():
            if value.shape != tuple(own[name].shape):
                raise ShapeError(
                    f"[load_state_dict] {name} has shape {value.shape}; "
                    f"expected {tuple(own[name].shape)}"
                )
        with no_grad():
            for name, value in values.items():
                tensor = own[name]
                tensor.assign(Tensor(value, dtype=tensor.dtype, device=tensor.device))
        if own:
            Tensor.realize(*own.values())

    def __repr__(self) -> str:
        children = list(self.named_children())
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in children]
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"

    def extra_repr(self) -> str:
        """What `repr` shows between a leaf module's parentheses."""
        return ""


def _as_array(value: Any) -> numpy.ndarray:
    return value.numpy() if isinstance(value, Tensor) else numpy.asarray(value)


def _listed(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
