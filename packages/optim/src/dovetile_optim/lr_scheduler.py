"""Learning-rate schedules with PyTorch's names: each sets `lr` of the optimiser's groups."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from dovetile.errors import ArgumentError
from dovetile_optim.optimizer import Optimizer


class LRScheduler(ABC):
    """Base of the schedules. A subclass gives `rates(epoch)`.

    The learning rate is a function of the group's initial rate and the number of `step()` calls
    alone, so a schedule resumed from its `state_dict` continues exactly.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            if last_epoch == -1:
                group["initial_lr"] = group["lr"]
            elif "initial_lr" not in group:
                raise ArgumentError(
                    f"[{type(self).__name__}] last_epoch={last_epoch} resumes a schedule, but the "
                    "optimizer's groups have no initial_lr; load its state dict first"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    @abstractmethod
    def rates(self, epoch: int) -> list[float]:
        """Every group's learning rate after `epoch` steps, from `base_lrs`."""

    def step(self) -> None:
        """Move on by one and set the learning rates."""
        self.last_epoch += 1
        self._set_rates()

    def _set_rates(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates(self.last_epoch)):
            group["lr"] = rate

    def get_last_lr(self) -> list[float]:
        """The current learning rate of every group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands: plain numbers, without the optimiser."""
        return {"base_lrs": list(self.base_lrs), "last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`, and set the learning rates it implies."""
        self.base_lrs = list(state_dict["base_lrs"])
        self.last_epoch = state_dict["last_epoch"]
        self._set_rates()


class LambdaLR(LRScheduler):
    """The initial rate times `lr_lambda(epoch)`; one function, or one for each group."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ):
        count = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * count if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != count:
            raise ArgumentError(
                f"[LambdaLR] got {len(self.lr_lambdas)} functions for {count} groups"
            )
        super().__init__(optimizer, last_epoch)

    def rates(self, epoch: int) -> list[float]:
        return [base * function(epoch) for base, function in zip(self.base_lrs, self.lr_lambdas)]


class StepLR(LRScheduler):
    """The rate is multiplied by `gamma` every `step_size` epochs."""

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ):
        if step_size < 1:
            raise ArgumentError(f"[StepLR] step_size is {step_size}; it must be at least 1")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rates(self, epoch: int) -> list[float]:
        return [base * self.gamma ** (epoch // self.step_size) for base in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the initial rate to `eta_min` over `T_max` epochs (then back)."""

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ):
        if T_max < 1:
            raise ArgumentError(f"[CosineAnnealingLR] T_max is {T_max}; it must be at least 1")
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def rates(self, epoch: int) -> list[float]:
        share = (1 + math.cos(math.pi * epoch / self.T_max)) / 2
        return [self.eta_min + (base - self.eta_min) * share for base in self.base_lrs]


class LinearLR(LRScheduler):
    """The rate's factor goes in a line from `start_factor` to `end_factor` over `total_iters`."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        if not 0.0 < start_factor <= 1.0:
            raise ArgumentError(f"[LinearLR] start_factor is {start_factor}; it must be in (0, 1]")
        if not 0.0 <= end_factor <= 1.0:
            raise ArgumentError(f"[LinearLR] end_factor is {end_factor}; it must be in [0, 1]")
        if total_iters < 1:
            raise ArgumentError(f"[LinearLR] total_iters is {total_iters}; it must be at least 1")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def rates(self, epoch: int) -> list[float]:
        progress = min(epoch, self.total_iters) / self.total_iters
        factor = self.start_factor + (self.end_factor - self.start_factor) * progress
        return [base * factor for base in self.base_lrs]
