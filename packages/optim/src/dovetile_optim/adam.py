"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dovetile import Tensor, dtypes
from dovetile_optim.optimizer import Optimizer, ParameterGroup, zeros_like


class Adam(Optimizer):
    """Adam (Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2015), as in PyTorch.

    `weight_decay` is added to the gradient, or with `decoupled_weight_decay` shrinks the parameter
    itself (AdamW). With `amsgrad` the largest second moment so far is used. Raises
    ArgumentError for values out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def initial_state(self, parameter: Tensor, group: ParameterGroup) -> dict[str, Tensor]:
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
        return {name: zeros_like(parameter) for name in names}

    def shared(self, step: Tensor | None, group: ParameterGroup) -> tuple[Tensor, ...]:
        assert step is not None  # counts_steps is always true here
        first_beta, second_beta = group["betas"]
        rate = group.learning_rate / bias_correction(first_beta, step)
        kept = 1 - group.learning_rate * group["weight_decay"]
        return rate, bias_correction(second_beta, step).rsqrt(), kept

    def update(
        self,
        parameter: Tensor,
        gradient: Tensor,
        state: dict[str, Tensor],
        group: ParameterGroup,
        shared: tuple[Tensor, ...],
    ) -> None:
        rate, scale, kept = (tensor.cast(parameter.dtype) for tensor in shared)
        first_beta, second_beta = group["betas"]
        start = parameter
        if group["weight_decay"]:
            if group["decoupled_weight_decay"]:
                start = parameter * kept
            else:
                gradient = gradient + group["weight_decay"] * parameter
        mean = first_beta * state["exp_avg"] + (1 - first_beta) * gradient
        square = second_beta * state["exp_avg_sq"] + (1 - second_beta) * gradient * gradient
        largest = square
        if group["amsgrad"]:
            largest = state["max_exp_avg_sq"].maximum(square)
            state["max_exp_avg_sq"].assign(largest)
        state["exp_avg"].assign(mean)
        state["exp_avg_sq"].assign(square)
        parameter.assign(start - rate * mean / (largest.sqrt() * scale + group["eps"]))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019), as `torch.optim.AdamW`."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
        )


def bias_correction(beta: float, step: Tensor) -> Tensor:
    """1 - beta ** step, float32 of `step`'s shape.

    In float64 inside: beta is near 1, and float32 would lose half the digits in early steps.
    """
    if beta == 0.0:
        return step.ones_like()
    power = (step.cast(dtypes.float64) * math.log2(beta)).exp2()
    return (1 - power).cast(dtypes.float32)
