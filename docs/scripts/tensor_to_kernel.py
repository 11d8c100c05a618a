"""The page that follows one expression to its kernel, with listings that the code prints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dovetile import Tensor, dtypes
from dovetile.ir.uop import UOp
from dovetile.plugins import Capabilities
from dovetile.render.c_style import CStyleRenderer
from dovetile.schedule.explain import explain


@dataclass
class Target:
    """A device of the page's own, so that the page is the same on every machine."""

    capabilities: Capabilities
    renderer: CStyleRenderer


def example() -> tuple[Tensor, Target]:
    """(relu(a @ b + c), a target with vectors of 8 floats and one thread)."""

    def tensor(*shape: int) -> Tensor:
        return Tensor._new(UOp.buffer(math.prod(shape), dtypes.float32).reshape(shape))

    capabilities = Capabilities(architecture="example", vector_bytes=32, vector_registers=16)
    value = (tensor(4, 32) @ tensor(32, 8) + tensor(8)).relu()
    return value, Target(capabilities, CStyleRenderer(capabilities))


def page() -> str:
    """The page as Markdown."""
    value, target = example()
    explanation = explain([value.uop], target)
    (kernel,) = explanation.kernels
    text = (Path(__file__).parent / "tensor_to_kernel.md").read_text(encoding="utf-8")
    for name, listing in {"graph": explanation.graph, **vars(kernel)}.items():
        place = "{{" + name + "}}"
        assert text.count(place) == 1, place
        text = text.replace(place, listing)
    return text
