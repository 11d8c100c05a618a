"""Watch a small convolutional network learn real handwritten digits.

    python examples/demo.py [--epochs N] [--batch-size N] [--seed N] [--output PNG]

The digits are scikit-learn's (8 x 8 scans; Alpaydin & Kaynak, 1998), which come with that package;
a fifth of them is held out for testing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import arguments
import augment
import numpy

import dovetile
from dovetile import Tensor, counters, jit, no_grad
from dovetile.errors import DovetileError
from dovetile.runtime import Counters
from dovetile_nn import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from dovetile_optim import Adam
from dovetile_optim.lr_scheduler import CosineAnnealingLR

try:
    from PIL import Image, ImageDraw
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ModuleNotFoundError as error:
    sys.exit(f"demo.py: {error}; run `python -m pip install pillow rich scikit-learn`")

HELD_OUT = 0.2


def make_model() -> Sequential:
    """The network: images (batch, 1, 8, 8) -> logits (batch, 10)."""
    return Sequential(
        Conv2d(1, 32, 3, padding=1),
        ReLU(),
        Conv2d(32, 32, 3, padding=1),
        ReLU(),
        MaxPool2d(2),
        Conv2d(32, 64, 3, padding=1),
        ReLU(),
        Flatten(),
        Linear(64 * 4 * 4, 10),
    )


def draw(
    images: numpy.ndarray, labels: numpy.ndarray, predicted: numpy.ndarray, path: Path
) -> None:
    """A picture of the digits (count, 8, 8) with what the network takes them for; errors in red."""
    columns, scale, caption, gap = 12, 6, 14, 4
    width, height = 8 * scale + gap, 8 * scale + caption + gap
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width + gap, rows * height + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (image, label, guess) in enumerate(zip(images, labels, predicted)):
        left = gap + index % columns * width
        top = gap + index // columns * height
        shades = (255 - image * 255).astype(numpy.uint8)
        digit = Image.fromarray(shades).resize((8 * scale, 8 * scale), Image.Resampling.NEAREST)
        sheet.paste(digit.convert("RGB"), (left, top))
        right = guess == label
        text, colour = (f"{guess}", "black") if right else (f"{guess}, is {label}", "red")
        pen.text((left + 2, top + 8 * scale + 1), text, fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    sheet.save(temporary, format="PNG")
    temporary.replace(path)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small network on scikit-learn's digits.")
    parser.add_argument("--epochs", type=arguments.integer(1), default=16)
    parser.add_argument("--batch-size", type=arguments.integer(1), default=64)
    parser.add_argument("--seed", type=arguments.integer(0), default=0)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "output" / "digits.png"
    )
    options = parser.parse_args(words)
    if options.output.is_dir():
        parser.error(f"--output {options.output} is a folder; give the name of a PNG file")
    return options


def main() -> None:
    started = time.perf_counter()
    options = parse_arguments()
    console = Console()
    pixels, digits = load_digits(return_X_y=True)
    digit_images = (numpy.asarray(pixels) / 16).astype(numpy.float32).reshape(-1, 8, 8)
    parts = train_test_split(
        digit_images, digits, test_size=HELD_OUT, stratify=digits, random_state=0
    )
    train_images, test_images, train_labels, test_labels = map(numpy.asarray, parts)
    batch_size = options.batch_size
    if batch_size > len(train_images):
        sys.exit(f"demo.py: --batch-size {batch_size} is more than the {len(train_images)} images")
    steps = len(train_images) // batch_size

    dovetile.manual_seed(options.seed)
    model = make_model()
    optimizer = Adam(model.parameters(), lr=2e-3)
    schedule = CosineAnnealingLR(optimizer, T_max=options.epochs * steps)

    @jit
    def train_step(inputs: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = model(inputs).cross_entropy(labels)
        loss.backward()
        optimizer.step()
        return loss

    @jit
    def predict(inputs: Tensor) -> Tensor:
        with no_grad():
            return model(inputs).argmax(1).realize()

    test_inputs = Tensor(test_images[:, None].copy())
    predicted = numpy.zeros(len(test_images), numpy.int64)
    accuracy = 0.0
    first_step = training = 0.0
    counted = Counters()
    generator = numpy.random.default_rng(options.seed)
    with Progress(
        TextColumn("epoch {task.fields[epoch]:2}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  test accuracy {task.fields[accuracy]:.1%}"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        total = options.epochs * steps
        task = progress.add_task("train", total=total, epoch=0, loss=float("nan"), accuracy=0.0)
        for epoch in range(options.epochs):
            order = generator.permutation(len(train_images))
            loss = float("nan")
            for step in range(steps):
                chosen = order[step * batch_size : (step + 1) * batch_size]
                before, step_started = counters(), time.perf_counter()
                images = augment.shifted(train_images[chosen], 1, generator)
                inputs = Tensor(images[:, None].copy())
                loss = train_step(inputs, Tensor(train_labels[chosen].astype(numpy.int64))).item()
                if first_step:
                    training += time.perf_counter() - step_started
                    counted.add(counters() - before)
                else:
                    first_step = time.perf_counter() - step_started
                schedule.step()
                progress.update(task, advance=1, epoch=epoch + 1, loss=loss)
            predicted = predict(test_inputs).numpy()
            accuracy = float((predicted == test_labels).mean())
            progress.update(task, accuracy=accuracy)
    seconds = time.perf_counter() - started
    draw(test_images[:120], test_labels[:120], predicted[:120], options.output)

    table = Table(title="Handwritten digits", show_header=False)
    table.add_row("device", str(test_inputs.device))
    table.add_row("test accuracy", f"{accuracy:.2%} of {len(test_images)} held-out digits")
    table.add_row("time", f"{seconds:.1f} s in all; first step {first_step:.2f} s, compiling")
    made = counters()
    table.add_row(
        "kernels",
        f"{made.kernels:,} launched; {made.compiled} compiled, {made.from_cache} from the cache",
    )
    table.add_row("speed", f"{counted.operations / training / 1e9:.1f} GFLOP/s in training steps")
    table.add_row("picture", str(options.output))
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except (DovetileError, OSError) as error:
        sys.exit(f"demo.py: {error}")
