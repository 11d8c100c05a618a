"""Checkpoints of a training run: one safetensors file, from which it resumes exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dovetile import Tensor
from dovetile.errors import FileFormatError
from dovetile_nn import Module, load_file, load_metadata, save_file
from dovetile_optim import Optimizer


def save(path: Path, model: Module, optimizer: Optimizer, progress: dict[str, Any]) -> None:
    """Write the model's and the optimiser's state, and `progress` (anything JSON can hold)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {
        f"model.{name}": tensor for name, tensor in model.state_dict().items()
    }
    for index, entries in state["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in entries.items()}
    metadata = {
        "groups": json.dumps(state["param_groups"]),
        "progress": json.dumps(progress),
    }
    save_file(tensors, path, metadata)


def load(path: Path, model: Module, optimizer: Optimizer) -> dict[str, Any]:
    """Put what `save` wrote into the model and the optimiser; returns the progress.

    Raises FileNotFoundError, FileFormatError where it is not such a checkpoint, ArgumentError or
    ShapeError where it is one of another model.
    """
    metadata = load_metadata(path)
    if not {"groups", "progress"} <= metadata.keys():
        raise FileFormatError(f"[checkpoint] {path} holds tensors but is not a checkpoint")
    weights: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_file(path).items():
        kind, _, rest = name.partition(".")
        if kind == "model":
            weights[rest] = tensor
        else:
            index, _, entry = rest.partition(".")
            state.setdefault(int(index), {})[entry] = tensor
    model.load_state_dict(weights)
    groups = json.loads(metadata["groups"])
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return json.loads(metadata["progress"])
