"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dovetile import Tensor
from dovetile.errors import ArgumentError
from dovetile_optim.optimizer import Optimizer, ParameterGroup, zeros_like


class SGD(Optimizer):
    """Gradient descent with momentum, as in `torch.optim.SGD`.

    With `momentum`, v = momentum * v + (1 - dampening) * g (v = g at the first step) and the
    parameter moves by -lr * v, or by -lr * (g + momentum * v) with `nesterov` (Sutskever et al.,
    "On the importance of initialization and momentum in deep learning", 2013). `weight_decay` is
    added to the gradient. Raises ArgumentError for values out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_hyperparameters(self, values: Mapping[str, Any]) -> None:
        super()._check_hyperparameters(values)
        if values["nesterov"] and (values["momentum"] <= 0 or values["dampening"] != 0):
            raise ArgumentError("[SGD] nesterov needs a momentum above 0 and a dampening of 0")

    def counts_steps(self, group: ParameterGroup) -> bool:
        # PyTorch starts the buffer from the whole first gradient: dampening begins after it.
        return bool(group["momentum"] and group["dampening"])

    def initial_state(self, parameter: Tensor, group: ParameterGroup) -> dict[str, Tensor]:
        return {"momentum_buffer": zeros_like(parameter)} if group["momentum"] else {}

    def shared(self, step: Tensor | None, group: ParameterGroup) -> tuple[Tensor, ...]:
        if step is None:
            return (group.learning_rate,)
        return group.learning_rate, 1 - group["dampening"] * (step > 1).cast(step.dtype)

    def update(
        self,
        parameter: Tensor,
        gradient: Tensor,
        state: dict[str, Tensor],
        group: ParameterGroup,
        shared: tuple[Tensor, ...],
    ) -> None:
        rate, *kept_share = shared
        momentum = group["momentum"]
        if group["weight_decay"]:
            gradient = gradient + group["weight_decay"] * parameter
        if momentum:
            taken = gradient * kept_share[0].cast(gradient.dtype) if kept_share else gradient
            velocity = momentum * state["momentum_buffer"] + taken
            state["momentum_buffer"].assign(velocity)
            gradient = gradient + momentum * velocity if group["nesterov"] else velocity
        parameter.assign(parameter - rate.cast(parameter.dtype) * gradient)
