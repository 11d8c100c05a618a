"""Tensors in safetensors files, read and written through the safetensors library."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy
import safetensors
import safetensors.numpy

from dovetile import Tensor
from dovetile.errors import FileFormatError

# The file format's dtype names, which NumPy knows under others (small floats through ml_dtypes).
_NUMPY_DTYPES: dict[str, Any] = {
    "BOOL": numpy.bool_,
    "U8": numpy.uint8,
    "U16": numpy.uint16,
    "U32": numpy.uint32,
    "U64": numpy.uint64,
    "I8": numpy.int8,
    "I16": numpy.int16,
    "I32": numpy.int32,
    "I64": numpy.int64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F16": numpy.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": numpy.float32,
    "F64": numpy.float64,
}


def save_file(
    tensors: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write `tensors` by their names, and `metadata` of text, to a safetensors file.

    The file appears whole or not at all: it is written under another name in the same folder and
    moved into place. Raises OSError where the folder cannot be written.
    """
    Tensor.realize(*tensors.values())
    # order="C": the library writes memory as it lies.
    arrays = {name: numpy.asarray(tensor.numpy(), order="C") for name, tensor in tensors.items()}
    content = safetensors.numpy.save(arrays, metadata=metadata)
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def load_file(path: str | os.PathLike[str], device: Any = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file by their names, in order of these, on `device`.

    Raises FileNotFoundError where there is none, FileFormatError where it is damaged, is not a
    safetensors file, or holds a dtype that Dovetile has not.
    """
    try:
        entries = safetensors.deserialize(Path(path).read_bytes())
    except safetensors.SafetensorError as error:
        raise FileFormatError(
            f"[load_file] {os.fspath(path)} is not a whole safetensors file ({error})"
        ) from error
    tensors: dict[str, Tensor] = {}
    for name, entry in sorted(entries, key=lambda pair: pair[0]):
        dtype = _NUMPY_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise FileFormatError(
                f"[load_file] {name} in {os.fspath(path)} has dtype {entry['dtype']}; "
                f"supported are {', '.join(_NUMPY_DTYPES)}"
            )
        array = numpy.frombuffer(entry["data"], dtype=dtype).reshape(entry["shape"])
        tensors[name] = Tensor(array, device=device)
    return tensors


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text that was saved beside the tensors of a safetensors file. Raises as `load_file`."""
    if not Path(path).exists():
        raise FileNotFoundError(f"[load_metadata] there is no file {os.fspath(path)}")
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise FileFormatError(
            f"[load_metadata] {os.fspath(path)} is not a whole safetensors file ({error})"
        ) from error
