"""MNIST: IDX files from a folder, or downloaded and checked against pinned hashes."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import tempfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy

# LeCun, Cortes & Burges, "The MNIST database of handwritten digits"; a public mirror of its files.
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}
# Where a folder holds the 10,000 test images alone, the last tenth of them is kept for testing.
HELD_OUT_SHARE = 10


class DataError(Exception):
    """The data is missing or not what it should be; the message says what would be right."""


class Digits(NamedTuple):
    """Images (count, 28, 28) of bytes and labels (count,) from 0 to 9, in two parts."""

    train_images: numpy.ndarray
    train_labels: numpy.ndarray
    test_images: numpy.ndarray
    test_labels: numpy.ndarray


def load(folder: Path) -> Digits:
    """MNIST from the IDX files (plain or .gz) of `folder`. Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; --data takes the one with MNIST's IDX files")
    test = _load_pair(folder, "t10k")
    if test is None:
        raise DataError(
            f"{folder} has no t10k-images-idx3-ubyte(.gz) with t10k-labels-idx1-ubyte(.gz); "
            "leave --data out to download MNIST"
        )
    train = _load_pair(folder, "train")
    if train is not None:
        return Digits(*train, *test)
    images, labels = test
    kept = len(images) - len(images) // HELD_OUT_SHARE
    return Digits(images[:kept], labels[:kept], images[kept:], labels[kept:])


def download(folder: Path) -> None:
    """Bring the four files into `folder`, where they are not there yet. Raises DataError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, expected in SHA256.items():
        target = folder / name
        if target.exists() and _sha256(target.read_bytes()) == expected:
            continue
        try:
            with urllib.request.urlopen(MIRROR + name, timeout=60) as response:
                content = response.read()
        except (urllib.error.URLError, TimeoutError) as error:
            raise DataError(
                f"cannot download {MIRROR + name} ({error}); put MNIST's IDX files into a folder "
                "and pass it with --data"
            ) from error
        if _sha256(content) != expected:
            raise DataError(f"{MIRROR + name} is not the file it was (its SHA-256 differs)")
        descriptor, temporary = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, target)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _load_pair(folder: Path, part: str) -> tuple[numpy.ndarray, numpy.ndarray] | None:
    """Images and labels of "train" or "t10k", or None where either file is missing."""
    paths = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        found = [path for end in ("", ".gz") if (path := folder / f"{part}-{kind}{end}").exists()]
        if not found:
            return None
        paths.append(found[0])
    images, labels = _read_idx(paths[0], rank=3), _read_idx(paths[1], rank=1)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{paths[0]} holds images of {images.shape[1:]} pixels; expected (28, 28)")
    if len(images) != len(labels) or not len(images):
        raise DataError(
            f"{paths[0].name} holds {len(images)} images and {paths[1].name} {len(labels)} labels; "
            "there must be one label for each image, and at least one"
        )
    if labels.max() > 9:
        raise DataError(f"{paths[1]} holds a label {labels.max()}; labels are 0 to 9")
    return images, labels


def _read_idx(path: Path, rank: int) -> numpy.ndarray:
    """An IDX file of bytes: two zeros, type 8, the rank; big-endian int32 sizes; the data."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is not a whole gzip file ({error})") from error
    header = 4 + 4 * rank
    if len(content) < header or content[:4] != bytes([0, 0, 8, rank]):
        raise DataError(f"{path} is not an IDX file of bytes in {rank} dimensions")
    sizes = struct.unpack(f">{rank}I", content[4:header])
    expected = int(numpy.prod(sizes, dtype=numpy.uint64))
    if len(content) - header != expected:
        raise DataError(
            f"{path} holds {len(content) - header} bytes of data; its header says {expected}"
        )
    return numpy.frombuffer(content, numpy.uint8, offset=header).reshape(sizes)
