"""PyTorch, eager and compiled. Models are made in the default dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import torch
from contenders import THREADS
from inputs import Case, integers, orthogonal, parameters, sample, uniform
from models import gpt as gpt_model
from models import llama, mnist_network, resnet
from models.framework import Framework
from torch.nn import functional

torch.set_num_threads(THREADS)
MODES: dict[str, Any] = {"eager": lambda function, **_: function, "compiled": torch.compile}
Wrap = Callable[..., Any]

FRAMEWORK = Framework(
    nn=torch.nn,
    ones=lambda size: torch.nn.Parameter(torch.ones(size)),
    attention=functional.scaled_dot_product_attention,
)


def _values(result: torch.Tensor) -> numpy.ndarray:
    return sample(result.detach().to(torch.float64).numpy())


def _case(function: Callable[..., torch.Tensor], *inputs: Any) -> Case:
    @torch.inference_mode()
    def call() -> torch.Tensor:
        return function(*inputs)

    return Case(call, _values)


def _tensors(*arrays: numpy.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def matmul(wrap: Wrap, size: int, dtype: str = "float32") -> Case:
    inputs = _tensors(uniform("left", size, size), uniform("right", size, size))
    kind = getattr(torch, dtype)
    return _case(wrap(torch.matmul), *(tensor.to(kind) for tensor in inputs))


def matvec(wrap: Wrap, size: int) -> Case:
    inputs = _tensors(uniform("left", size, size), uniform("vector", size))
    return _case(wrap(torch.matmul), *inputs)


def chain(wrap: Wrap, count: int) -> Case:
    inputs = _tensors(*(uniform(name, count) for name in "abc"))
    return _case(wrap(lambda a, b, c: (a * b + c).relu()), *inputs)


def sum(wrap: Wrap, count: int) -> Case:
    return _case(wrap(lambda a: a.sum()), *_tensors(uniform("a", count)))


def softmax(wrap: Wrap, size: int) -> Case:
    return _case(wrap(lambda x: x.softmax(-1)), *_tensors(uniform("x", size, size)))


def layernorm(wrap: Wrap, size: int) -> Case:
    inputs = _tensors(uniform("x", size, size), uniform("weight", size), uniform("bias", size))
    return _case(wrap(lambda x, w, b: functional.layer_norm(x, (size,), w, b)), *inputs)


def attention(wrap: Wrap, heads: int, width: int, length: int) -> Case:
    inputs = _tensors(*(uniform(name, 1, heads, length, width) for name in "qkv"))
    causal = functional.scaled_dot_product_attention
    return _case(wrap(lambda q, k, v: causal(q, k, v, is_causal=True)), *inputs)


def small_matmuls(wrap: Wrap, count: int) -> Case:
    def compute(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        for _ in range(count):
            x = x @ weight
        return x

    return _case(wrap(compute), *_tensors(uniform("x", 16, 16), orthogonal(16)))


def eager_add(wrap: Wrap, count: int) -> Case | None:
    if wrap is not MODES["eager"]:
        return None
    a, b = _tensors(uniform("a", count), uniform("b", count))
    return Case(lambda: a + b, _values)


def _filled(model: torch.nn.Module) -> torch.nn.Module:
    state = model.state_dict()
    values = parameters({name: tuple(tensor.shape) for name, tensor in state.items()})
    model.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    return model


def _inputs(*arrays: numpy.ndarray) -> list[torch.Tensor]:
    return [
        tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor
        for tensor in _tensors(*arrays)
    ]


def resnet_model(folded: bool = True) -> torch.nn.Module:
    return _filled(resnet.resnet50(FRAMEWORK, folded)).eval()


def resnet50(wrap: Wrap, batch: int, folded: bool = True) -> Case:
    model = resnet_model(folded)
    if wrap is torch.compile:  # lets the compiler lay out the weights in advance
        from torch._inductor import config

        config.freezing = True
    return _case(wrap(model), *_inputs(uniform("images", batch, 3, 224, 224)))


def _training(
    wrap: Wrap, model: torch.nn.Module, optimizer: type, options: dict[str, Any],
    inputs: list[torch.Tensor],
) -> Case:  # fmt: skip
    """Steps of cross entropy; the values are the losses of the first three."""
    _filled(model)
    adjust = optimizer(model.parameters(), fused=True, **options)
    compiled = wrap(lambda x, y: functional.cross_entropy(model(x), y))
    step = wrap(adjust.step)

    def call() -> float:
        adjust.zero_grad()
        loss = compiled(*inputs)
        loss.backward()
        step()
        return loss.item()

    return Case(call, lambda first: numpy.array([first, call(), call()]))


def mnist(wrap: Wrap, batch: int) -> Case:
    model = torch.nn.Sequential(*mnist_network.layers(torch.nn))
    inputs = _inputs(uniform("images", batch, 1, 28, 28), integers("labels", 10, batch))
    return _training(wrap, model, torch.optim.Adam, {}, inputs)


def gpt(wrap: Wrap, batch: int, **size: int) -> Case:
    model = gpt_model.gpt(FRAMEWORK, **size)
    inputs = _inputs(*gpt_model.tokens(batch, size["context"]))
    return _training(wrap, model, torch.optim.AdamW, {}, inputs)


def decode(wrap: Wrap) -> Case:
    model = _filled(llama.llama(FRAMEWORK)).eval()
    keys, values = _inputs(*llama.empty_state()), _inputs(*llama.empty_state())
    slots = torch.arange(llama.CONTEXT)

    @wrap
    def step(token: torch.Tensor, position: torch.Tensor, table: torch.Tensor) -> Any:
        logits, new_keys, new_values = model(token, position, table, slots, keys, values)
        for old, new in zip((*keys, *values), (*new_keys, *new_values)):
            old.copy_(new)
        return logits

    steps = llama.steps()

    @torch.inference_mode()
    def call() -> torch.Tensor:
        return step(*_inputs(*next(steps)))

    return Case(call, lambda _: _values([call() for _ in range(3)][-1]))
