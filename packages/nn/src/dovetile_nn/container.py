"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dovetile_nn.module import Module


class ModuleList(Module):
    """Modules in a list, named "0", "1", ... in state dicts, as `torch.nn.ModuleList`."""

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end."""
        setattr(self, str(len(self)), module)
        return self

    def __len__(self) -> int:
        return len(self._module_names)

    def __iter__(self) -> Iterator[Module]:
        return (child for _, child in self.named_children())

    def __getitem__(self, index: int) -> Module:
        return list(self)[index]


class Sequential(ModuleList):
    """Each module applied to what the one before it returned, as `torch.nn.Sequential`."""

    def __init__(self, *modules: Module):
        super().__init__(modules)

    def forward(self, inputs: Any) -> Any:
        for module in self:
            inputs = module(inputs)
        return inputs
