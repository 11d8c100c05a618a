"""Reading MNIST's files, and saying what is wrong with them."""

from __future__ import annotations

import gzip
import hashlib
import struct
import urllib.error
from pathlib import Path

import mnist_data
import numpy
import pytest
from mnist_data import DataError

IMAGES = numpy.arange(20 * 28 * 28, dtype=numpy.uint32).astype(numpy.uint8).reshape(20, 28, 28)
LABELS = numpy.arange(20, dtype=numpy.uint8) % 10


def idx(array: numpy.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def write(
    folder: Path, part: str, images: bytes | None = None, labels: bytes | None = None
) -> None:
    (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images or idx(IMAGES)))
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels or idx(LABELS))


def test_the_test_files_alone_are_split(tmp_path: Path) -> None:
    write(tmp_path, "t10k")
    digits = mnist_data.load(tmp_path)
    assert digits.train_images.shape == (18, 28, 28)
    assert digits.test_labels.tolist() == [8, 9]
    assert numpy.concatenate([digits.train_images, digits.test_images]).tolist() == IMAGES.tolist()


def test_both_pairs_are_used_whole(tmp_path: Path) -> None:
    write(tmp_path, "t10k")
    write(tmp_path, "train", idx(IMAGES[:5]), idx(LABELS[:5]))
    digits = mnist_data.load(tmp_path)
    assert (len(digits.train_images), len(digits.test_images)) == (5, 20)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(IMAGES[:5]), None, "5 images .* 20 labels"),
        (idx(IMAGES[:, :20]), None, r"images of \(20, 28\) pixels"),
        (idx(IMAGES)[:-1], None, "bytes of data; its header says"),
        (b"\0\0\x0d\x03", None, "not an IDX file"),
        (None, idx(LABELS + 1), "holds a label 10"),
        (None, idx(IMAGES), "not an IDX file of bytes in 1 dimensions"),
        (idx(IMAGES[:0]), idx(LABELS[:0]), "at least one"),
    ],
)
def test_wrong_files(
    tmp_path: Path, images: bytes | None, labels: bytes | None, message: str
) -> None:
    write(tmp_path, "t10k", images, labels)
    with pytest.raises(DataError, match=message):
        mnist_data.load(tmp_path)


def test_damaged_gzip(tmp_path: Path) -> None:
    write(tmp_path, "t10k")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a whole gzip file"):
        mnist_data.load(tmp_path)


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leave --data out"):
        mnist_data.load(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        mnist_data.load(tmp_path / "nowhere")


def test_download_checks_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "one").write_bytes(b"right")
    monkeypatch.setattr(mnist_data, "MIRROR", source.as_uri() + "/")
    monkeypatch.setattr(mnist_data, "SHA256", {"one": hashlib.sha256(b"right").hexdigest()})
    mnist_data.download(target)
    assert [path.name for path in target.iterdir()] == ["one"]
    (source / "one").write_bytes(b"wrong")
    mnist_data.download(target)  # what is there already is not fetched again
    (target / "one").write_bytes(b"half")
    with pytest.raises(DataError, match="SHA-256 differs"):
        mnist_data.download(target)
    monkeypatch.setattr(mnist_data, "MIRROR", (tmp_path / "none").as_uri() + "/")
    with pytest.raises(DataError, match="pass it with --data") as caught:
        mnist_data.download(target)
    assert isinstance(caught.value.__cause__, urllib.error.URLError)
