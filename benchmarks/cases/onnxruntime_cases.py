"""ONNX Runtime, on networks that PyTorch exports."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from contenders import THREADS
from inputs import Case, sample, uniform

from cases import torch_cases

MODES = {"eager": None}


def resnet50(_: Any, batch: int, folded: bool = True) -> Case:
    images = uniform("images", batch, 3, 224, 224)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.onnx"
        model = torch_cases.resnet_model(folded)
        torch.onnx.export(
            model, (torch.from_numpy(images),), str(path), input_names=["images"], dynamo=False
        )
        session = onnxruntime.InferenceSession(str(path), options)
    return Case(
        lambda: session.run(None, {"images": images})[0],
        lambda result: sample(result),
    )
