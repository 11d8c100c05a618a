"""Optimisers and learning-rate schedules with PyTorch's names, arithmetic and state dicts."""

from __future__ import annotations

from dovetile_optim import lr_scheduler as lr_scheduler
from dovetile_optim.adam import Adam as Adam
from dovetile_optim.adam import AdamW as AdamW
from dovetile_optim.optimizer import Optimizer as Optimizer
from dovetile_optim.optimizer import ParameterGroup as ParameterGroup
from dovetile_optim.sgd import SGD as SGD

__version__ = "0.1.0"
