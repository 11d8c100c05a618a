"""The examples train, resume exactly, and say what is wrong with what they are given."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy
import pytest

from dovetile.errors import ArgumentError, FileFormatError
from dovetile_nn import load_file, load_metadata, save_file

EXAMPLES = Path(__file__).parents[1]


def run(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> None:
    """Run an example's main with these command-line words."""
    module = __import__(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
    module.main()


@pytest.fixture
def mnist_folder(tmp_path: Path) -> Path:
    """240 images of ten patterns with noise, in the files MNIST's test images come in."""
    generator = numpy.random.default_rng(0)
    labels = generator.integers(0, 10, 240).astype(numpy.uint8)
    # Coarse, so that they stay alike when they are shifted.
    patterns = numpy.kron(generator.integers(0, 200, (10, 4, 4)), numpy.ones((7, 7), int))
    images = (patterns[labels] + generator.integers(0, 50, (240, 28, 28))).astype(numpy.uint8)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        content = gzip.compress(header + array.tobytes())
        (tmp_path / f"t10k-{kind}-ubyte.gz").write_bytes(content)
    return tmp_path


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    return path


def same_files(first: Path, second: Path) -> None:
    """Whether two checkpoints hold the same numbers, to the last bit."""
    ours, theirs = load_file(first), load_file(second)
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        numpy.testing.assert_array_equal(tensor.numpy(), theirs[name].numpy(), err_msg=name)
    assert load_metadata(first) == load_metadata(second)


def test_mnist_learns_and_resumes_exactly(
    mnist_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = mnist_folder / "whole.safetensors", mnist_folder / "parts.safetensors"
    words = ["--data", mnist_folder, "--epochs", 6, "--batch-size", 36]
    run(monkeypatch, "mnist", *words, "--checkpoint", whole)
    assert "test accuracy 100.00% after 6 epochs" in capsys.readouterr().out
    run(monkeypatch, "mnist", *words, "--checkpoint", parts, "--stop-after", 2)
    run(monkeypatch, "mnist", *words, "--checkpoint", parts, "--resume")
    same_files(whole, parts)


def test_gpt_learns_and_resumes_exactly(
    text_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = text_file.with_name("whole"), text_file.with_name("parts")
    words = ["--text", text_file, "--steps", 60, "--context", 16, "--width", 32, "--layers", 1]
    words += ["--heads", 2, "--dropout", 0.1, "--report-every", 30, "--learning-rate", 1e-2]
    words += ["--sample", 20, "--prompt", "the "]
    run(monkeypatch, "gpt", *words, "--checkpoint", whole)
    output = capsys.readouterr().out
    loss = float(output.split("validation loss")[-1].split()[0])
    assert loss < 1.5  # nothing learnt: log(28) = 3.3
    assert "\nthe " in output
    run(monkeypatch, "gpt", *words, "--checkpoint", parts, "--stop-after", 30)
    run(monkeypatch, "gpt", *words, "--checkpoint", parts, "--resume")
    same_files(whole, parts)


def test_demo_draws_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    picture = tmp_path / "new" / "digits.png"
    run(monkeypatch, "demo", "--epochs", 4, "--output", picture)
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.size[0] > 500
    output = capsys.readouterr().out
    accuracy = float(output.split("test accuracy")[-1].split("%")[0].strip(" │"))
    assert accuracy > 85
    assert [path.name for path in picture.parent.iterdir()] == ["digits.png"]


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("mnist", ["--data", "nowhere"], "nowhere is not a folder"),
        ("mnist", ["--data", "{data}", "--batch-size", "1000"], "is more than the 216 images"),
        ("gpt", ["--text", "nowhere.txt"], "nowhere.txt"),
        ("gpt", ["--text", "{text}", "--context", "5000"], "it must have at least 50010"),
        ("gpt", ["--text", "{text}", "--prompt", "Ω"], "do not occur"),
        ("demo", ["--batch-size", "5000"], "is more than the 1437 images"),
    ],
)
def test_bad_input(
    name: str,
    words: list[str],
    message: str,
    mnist_folder: Path,
    text_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filled = [word.format(data=mnist_folder, text=text_file) for word in words]
    with pytest.raises((Exception, SystemExit), match=message):
        run(monkeypatch, name, *filled)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("mnist", ["--epochs", "0"], "'0' is not an integer of at least 1"),
        ("mnist", ["--learning-rate", "nan"], "'nan' is not a number above 0"),
        ("gpt", ["--text", "x", "--heads", "3"], "--heads 3 does not divide --width 128"),
        ("gpt", ["--text", "x", "--dropout", "1"], "--dropout 1.0 is not in"),
        ("gpt", ["--text", "x", "--prompt", ""], "--prompt is empty"),
        ("demo", ["--output", str(EXAMPLES)], "is a folder"),
    ],
)
def test_bad_options(
    name: str,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, name, *words)
    assert message in capsys.readouterr().err


def test_checkpoints_of_other_runs_are_refused(
    mnist_folder: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mnist_folder / "one.safetensors"
    words = ["--data", mnist_folder, "--batch-size", 100, "--checkpoint", path]
    with pytest.raises(FileNotFoundError):
        run(monkeypatch, "mnist", *words, "--epochs", 1, "--resume")
    run(monkeypatch, "mnist", *words, "--epochs", 1)
    with pytest.raises(Exception, match="is of a run with"):
        run(monkeypatch, "mnist", *words, "--epochs", 2, "--resume")
    with pytest.raises(ArgumentError, match="lacks values"):
        run(monkeypatch, "gpt", "--text", text_file, "--checkpoint", path, "--resume")
    save_file(load_file(path), path)
    with pytest.raises(FileFormatError, match="is not a checkpoint"):
        run(monkeypatch, "mnist", *words, "--epochs", 1, "--resume")
