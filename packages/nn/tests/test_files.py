"""safetensors files: round trips, PyTorch's reader and writer, and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

from dovetile import Tensor, dtypes
from dovetile.errors import FileFormatError
from dovetile_nn import Linear, load_file, load_metadata, save_file

NAMES = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64"


@pytest.mark.parametrize("name", NAMES.split())
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_round_trip(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    values = numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape) % 2
    tensor = Tensor(values).cast(getattr(dtypes, name))
    path = tmp_path / "one.safetensors"
    save_file({"values": tensor}, path, metadata={"step": "3"})
    loaded = load_file(path)["values"]
    assert (loaded.dtype, loaded.shape) == (tensor.dtype, tensor.shape)
    assert loaded.numpy().tolist() == tensor.numpy().tolist()
    assert load_metadata(path) == {"step": "3"}


def test_torch_reads_and_writes_the_same_files(tmp_path: Path, torch: Any) -> None:
    from safetensors import torch as torch_files

    ours, theirs = Linear(4, 2), torch.nn.Linear(4, 2)
    save_file(ours.state_dict(), tmp_path / "ours.safetensors")
    theirs.load_state_dict(torch_files.load_file(tmp_path / "ours.safetensors"))
    assert theirs.weight.tolist() == ours.weight.numpy().tolist()
    mixed = {"half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "whole": torch.tensor(7)}
    torch_files.save_file(mixed, tmp_path / "theirs.safetensors")
    loaded = load_file(tmp_path / "theirs.safetensors")
    assert loaded["half"].dtype == dtypes.bfloat16
    assert loaded["half"].cast(dtypes.float32).numpy().tolist() == [1.5, -2.0]
    assert loaded["whole"].item() == 7


def test_a_transposed_tensor_is_written_in_order(tmp_path: Path) -> None:
    tensor = Tensor(numpy.arange(6, dtype=numpy.float32).reshape(2, 3)).transpose(0, 1)
    save_file({"values": tensor}, tmp_path / "one.safetensors")
    loaded = load_file(tmp_path / "one.safetensors")["values"]
    assert loaded.numpy().tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_missing_file(tmp_path: Path) -> None:
    for read in (load_file, load_metadata):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.safetensors")


@pytest.mark.parametrize("damage", [b"", b"not a file of tensors", None])
def test_damaged_file(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "bad.safetensors"
    save_file({"values": Tensor.ones(10)}, path)
    path.write_bytes(path.read_bytes()[:-5] if damage is None else damage)
    for read in (load_file, load_metadata):
        with pytest.raises(FileFormatError, match="is not a whole safetensors file"):
            read(path)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_of_torch(tmp_path: Path, torch: Any, name: str) -> None:
    from safetensors import torch as torch_files

    path, values = tmp_path / "eight.safetensors", torch.tensor([1.5, -0.25, 3.0])
    torch_files.save_file({"values": values.to(getattr(torch, name))}, path)
    found = load_file(path)["values"]
    assert found.dtype.name == name
    assert found.float().numpy().tolist() == values.tolist()


def test_unsupported_dtype(tmp_path: Path) -> None:
    path = tmp_path / "four.safetensors"
    header = b'{"values":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(FileFormatError, match="has dtype F4"):
        load_file(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.safetensors"
    save_file({"values": Tensor.ones(2)}, path)
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_file({"values": Tensor.zeros(2)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
