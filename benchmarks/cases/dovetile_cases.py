"""Dovetile: captured functions, and one eager call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
from inputs import Case, integers, orthogonal, parameters, sample, uniform
from models import gpt as gpt_model
from models import llama, mnist_network, resnet
from models.framework import Framework

import dovetile_nn
import dovetile_optim
from dovetile import Tensor, dtypes, jit, no_grad
from dovetile.runtime import get_device

MODES = {"captured": jit}
Wrap = Callable[..., Any]

FRAMEWORK = Framework(
    nn=dovetile_nn,
    ones=lambda size: Tensor.ones(size, requires_grad=True),
    attention=Tensor.scaled_dot_product_attention,
)


def _values(result: Tensor) -> numpy.ndarray:
    return sample(result.numpy().astype(numpy.float64))


def _waited(function: Callable[..., Tensor], *inputs: Tensor) -> Case:
    """Calls the function and waits for its result."""
    device = get_device(inputs[0].device)

    def call() -> Tensor:
        result = function(*inputs)
        device.synchronize()
        return result

    return Case(call, _values)


def matmul(wrap: Wrap, size: int, dtype: str = "float32") -> Case:
    inputs = Tensor(uniform("left", size, size)), Tensor(uniform("right", size, size))
    kind = getattr(dtypes, dtype)
    left, right = (tensor.cast(kind).contiguous().realize() for tensor in inputs)
    return _waited(wrap(lambda a, b: a @ b), left, right)


def matvec(wrap: Wrap, size: int) -> Case:
    inputs = Tensor(uniform("left", size, size)), Tensor(uniform("vector", size))
    return _waited(wrap(lambda a, b: a @ b), *inputs)


def chain(wrap: Wrap, count: int) -> Case:
    inputs = (Tensor(uniform(name, count)) for name in "abc")
    return _waited(wrap(lambda a, b, c: (a * b + c).relu()), *inputs)


def sum(wrap: Wrap, count: int) -> Case:
    return _waited(wrap(lambda a: a.sum()), Tensor(uniform("a", count)))


def softmax(wrap: Wrap, size: int) -> Case:
    return _waited(wrap(lambda x: x.softmax(-1)), Tensor(uniform("x", size, size)))


def layernorm(wrap: Wrap, size: int) -> Case:
    arrays = uniform("x", size, size), uniform("weight", size), uniform("bias", size)
    inputs = (Tensor(array) for array in arrays)
    return _waited(wrap(lambda x, w, b: x.layer_norm((size,), w, b)), *inputs)


def attention(wrap: Wrap, heads: int, width: int, length: int) -> Case:
    inputs = (Tensor(uniform(name, 1, heads, length, width)) for name in "qkv")
    causal = Tensor.scaled_dot_product_attention
    return _waited(wrap(lambda q, k, v: causal(q, k, v, is_causal=True)), *inputs)


def small_matmuls(wrap: Wrap, count: int) -> Case:
    def compute(x: Tensor, weight: Tensor) -> Tensor:
        for _ in range(count):
            x = x @ weight
        return x

    return _waited(wrap(compute), Tensor(uniform("x", 16, 16)), Tensor(orthogonal(16)))


def eager_add(_: Wrap, count: int) -> Case:
    a, b = Tensor(uniform("a", count)), Tensor(uniform("b", count))
    return _waited(lambda a, b: (a + b).realize(), a, b)


def _filled(model: Any) -> Any:
    state = model.state_dict()
    model.load_state_dict(parameters({name: tuple(t.shape) for name, t in state.items()}))
    return model


def resnet50(wrap: Wrap, batch: int, folded: bool = True) -> Case:
    model = _filled(resnet.resnet50(FRAMEWORK, folded)).eval()

    @wrap
    def forward(images: Tensor) -> Tensor:
        with no_grad():
            return model(images)

    return _waited(forward, Tensor(uniform("images", batch, 3, 224, 224)))


def _training(wrap: Wrap, model: Any, optimizer: type, inputs: list[Tensor]) -> Case:
    """Steps of cross entropy; the values are the losses of the first three."""
    _filled(model)
    adjust = optimizer(model.parameters())

    @wrap
    def step(x: Tensor, y: Tensor) -> Tensor:
        adjust.zero_grad()
        loss = model(x).cross_entropy(y)
        loss.backward()
        adjust.step()
        return loss

    def call() -> float:
        return step(*inputs).item()

    return Case(call, lambda first: numpy.array([first, call(), call()]))


def mnist(wrap: Wrap, batch: int) -> Case:
    model = dovetile_nn.Sequential(*mnist_network.layers(dovetile_nn))
    inputs = [Tensor(uniform("images", batch, 1, 28, 28)), Tensor(integers("labels", 10, batch))]
    return _training(wrap, model, dovetile_optim.Adam, inputs)


def gpt(wrap: Wrap, batch: int, **size: int) -> Case:
    model = gpt_model.gpt(FRAMEWORK, **size)
    inputs = [Tensor(array) for array in gpt_model.tokens(batch, size["context"])]
    return _training(wrap, model, dovetile_optim.AdamW, inputs)


def decode(wrap: Wrap) -> Case:
    model = _filled(llama.llama(FRAMEWORK)).eval()
    keys, values = ([Tensor(array) for array in llama.empty_state()] for _ in range(2))
    slots = Tensor.arange(llama.CONTEXT).realize()

    @wrap
    def step(token: Tensor, position: Tensor, table: Tensor) -> Tensor:
        with no_grad():
            logits, new_keys, new_values = model(token, position, table, slots, keys, values)
            for old, new in zip((*keys, *values), (*new_keys, *new_values)):
                old.assign(new)
            return logits

    steps = llama.steps()
    device = get_device(slots.device)

    def call() -> Tensor:
        result = step(*(Tensor(array) for array in next(steps)))
        device.synchronize()
        return result

    return Case(call, lambda _: _values([call() for _ in range(3)][-1]))
