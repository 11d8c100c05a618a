"""JAX, compiled by `jax.jit`. It has no model of its own here but the GPT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy
from inputs import Case, orthogonal, parameters, sample, uniform
from jax import numpy as jnp
from models import gpt as gpt_model

MODES = {"compiled": jax.jit}
Wrap = Callable[..., Any]
Parameters = dict[str, jax.Array]


def _case(function: Callable[..., jax.Array], *inputs: Any) -> Case:
    placed = [jnp.asarray(array) for array in inputs]
    return Case(
        lambda: function(*placed).block_until_ready(),
        lambda result: sample(numpy.asarray(result, numpy.float64)),
    )


def matmul(wrap: Wrap, size: int, dtype: str = "float32") -> Case:
    arrays = uniform("left", size, size), uniform("right", size, size)
    return _case(wrap(jnp.matmul), *(jnp.asarray(array, dtype) for array in arrays))


def matvec(wrap: Wrap, size: int) -> Case:
    return _case(wrap(jnp.matmul), uniform("left", size, size), uniform("vector", size))


def chain(wrap: Wrap, count: int) -> Case:
    function = wrap(lambda a, b, c: jax.nn.relu(a * b + c))
    return _case(function, *(uniform(name, count) for name in "abc"))


def sum(wrap: Wrap, count: int) -> Case:
    return _case(wrap(jnp.sum), uniform("a", count))


def softmax(wrap: Wrap, size: int) -> Case:
    return _case(wrap(jax.nn.softmax), uniform("x", size, size))


def _normalized(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5) * weight + bias
    )


def layernorm(wrap: Wrap, size: int) -> Case:
    inputs = uniform("x", size, size), uniform("weight", size), uniform("bias", size)
    return _case(wrap(_normalized), *inputs)


def _attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Causal, of (..., length, width)."""
    length, width = query.shape[-2:]
    scores = query @ jnp.swapaxes(key, -1, -2) / width**0.5
    seen = jnp.tril(jnp.ones((length, length), bool))
    return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)) @ value


def attention(wrap: Wrap, heads: int, width: int, length: int) -> Case:
    return _case(wrap(_attention), *(uniform(name, 1, heads, length, width) for name in "qkv"))


def small_matmuls(wrap: Wrap, count: int) -> Case:
    def compute(x: jax.Array, weight: jax.Array) -> jax.Array:
        for _ in range(count):
            x = x @ weight
        return x

    return _case(wrap(compute), uniform("x", 16, 16), orthogonal(16))


def eager_add(_: Wrap, count: int) -> Case:
    return _case(jnp.add, uniform("a", count), uniform("b", count))


def _gpt_loss(state: Parameters, text: jax.Array, targets: jax.Array, layers: int) -> jax.Array:
    """As models/gpt.py has it, with its names."""

    def norm(x: jax.Array, name: str) -> jax.Array:
        return _normalized(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: jax.Array, name: str) -> jax.Array:
        return x @ state[f"{name}.weight"].T

    x = state["tokens.weight"][text] + state["positions.weight"]
    batch, context, width = x.shape
    for layer in range(layers):
        name = f"blocks.{layer}"
        parts = jnp.split(linear(norm(x, f"{name}.first_norm"), f"{name}.attention.inputs"), 3, -1)
        split = batch, context, width // gpt_model.HEAD_WIDTH, gpt_model.HEAD_WIDTH
        heads = (part.reshape(split).swapaxes(1, 2) for part in parts)
        seen = _attention(*heads).swapaxes(1, 2).reshape(batch, context, width)
        x = x + linear(seen, f"{name}.attention.output")
        inside = linear(norm(x, f"{name}.second_norm"), f"{name}.network.0")
        x = x + linear(jax.nn.gelu(inside, approximate=False), f"{name}.network.2")
    logits = linear(norm(x, "norm"), "head").reshape(-1, gpt_model.VOCABULARY)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], 1)
    return -picked.mean()


def gpt(wrap: Wrap, layers: int, width: int, context: int, batch: int) -> Case:
    """With AdamW (Loshchilov & Hutter, 2019) and PyTorch's defaults."""
    shapes = gpt_model.shapes(layers, width, context)
    state = {name: jnp.asarray(value) for name, value in parameters(shapes).items()}
    moments = [{name: jnp.zeros_like(value) for name, value in state.items()} for _ in range(2)]
    text, targets = (jnp.asarray(array) for array in gpt_model.tokens(batch, context))

    def adjusted(value: Any, gradient: Any, first: Any, second: Any, count: Any) -> Any:
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * jnp.square(gradient)
        size = jnp.sqrt(second / (1 - 0.999**count)) + 1e-8
        return value * (1 - 1e-5) - 1e-3 * first / (1 - 0.9**count) / size, first, second

    def step(state: Parameters, first: Parameters, second: Parameters, count: Any) -> Any:
        loss, gradients = jax.value_and_grad(_gpt_loss)(state, text, targets, layers)
        made = {
            name: adjusted(state[name], gradients[name], first[name], second[name], count)
            for name in state
        }
        return loss, *({name: triple[n] for name, triple in made.items()} for n in range(3))

    compiled = wrap(step, donate_argnums=(0, 1, 2))
    held: list[Any] = [state, *moments, jnp.float32(0)]

    def call() -> float:
        held[3] = held[3] + 1
        loss, *held[:3] = compiled(*held)
        jax.block_until_ready(held)
        return float(loss)

    return Case(call, lambda first: numpy.array([first, call(), call()]))
