"""Train a convolutional network on MNIST.

python examples/mnist.py --data DIR          IDX files from DIR (plain or .gz)
python examples/mnist.py                     downloads them first
python examples/mnist.py --data DIR --resume goes on from the last checkpoint, exactly
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import arguments
import augment
import checkpoint
import mnist_data
import numpy

import dovetile
from dovetile import Tensor, jit, no_grad
from dovetile.errors import DovetileError
from dovetile_nn import (
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from dovetile_optim import Adam
from dovetile_optim.lr_scheduler import CosineAnnealingLR

OUTPUT = Path(__file__).parent / "output"


def make_model() -> Sequential:
    """The network: images (batch, 1, 28, 28) -> logits (batch, 10)."""
    return Sequential(
        Conv2d(1, 32, 5),
        ReLU(),
        Conv2d(32, 32, 5),
        ReLU(),
        BatchNorm2d(32),
        MaxPool2d(2),
        Conv2d(32, 64, 3),
        ReLU(),
        Conv2d(64, 64, 3),
        ReLU(),
        BatchNorm2d(64),
        MaxPool2d(2),
        Flatten(),
        Linear(576, 10),
    )


def as_inputs(images: numpy.ndarray) -> Tensor:
    """Bytes (batch, 28, 28) -> float32 (batch, 1, 28, 28) in [0, 1]."""
    return Tensor(images[:, None].astype(numpy.float32) / 255)


def accuracy(predict, images: numpy.ndarray, labels: numpy.ndarray, batch_size: int) -> float:
    """The share of `images` that `predict` names rightly; the last batch is filled up."""
    right = 0
    for first in range(0, len(images), batch_size):
        batch = images[first : first + batch_size]
        filled = numpy.concatenate([batch, numpy.zeros((batch_size - len(batch), 28, 28), "uint8")])
        predicted = predict(as_inputs(filled)).numpy()[: len(batch)]
        right += int((predicted == labels[first : first + batch_size]).sum())
    return right / len(images)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a convolutional network on MNIST.")
    parser.add_argument(
        "--data", type=Path, help="folder with IDX files; without it, they are downloaded"
    )
    parser.add_argument("--epochs", type=arguments.integer(1), default=8)
    parser.add_argument("--batch-size", type=arguments.integer(2), default=128)
    parser.add_argument("--learning-rate", type=arguments.positive, default=2e-3)
    parser.add_argument("--seed", type=arguments.integer(0), default=0)
    parser.add_argument("--checkpoint", type=Path, default=OUTPUT / "mnist.safetensors")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument(
        "--stop-after",
        type=arguments.integer(1),
        help="stop after this many epochs, to resume later",
    )
    return parser.parse_args(words)


def main() -> None:
    options = parse_arguments()
    if options.data is None:
        options.data = OUTPUT / "mnist"
        mnist_data.download(options.data)
    digits = mnist_data.load(options.data)
    count, batch_size = len(digits.train_images), options.batch_size
    if batch_size > count:
        raise mnist_data.DataError(f"--batch-size {batch_size} is more than the {count} images")
    steps = count // batch_size

    dovetile.manual_seed(options.seed)
    model = make_model()
    optimizer = Adam(model.parameters(), lr=options.learning_rate)
    schedule = CosineAnnealingLR(optimizer, T_max=options.epochs * steps)
    # What has to be the same for a run to be the same.
    settings = {
        "epochs": options.epochs,
        "batch_size": batch_size,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "images": count,
    }
    epoch = 0
    if options.resume:
        progress = checkpoint.load(options.checkpoint, model, optimizer)
        if progress["settings"] != settings:
            raise mnist_data.DataError(
                f"{options.checkpoint} is of a run with {progress['settings']}; "
                f"this one has {settings}"
            )
        epoch = progress["epoch"]
        schedule.load_state_dict(progress["schedule"])

    @jit
    def train_step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = model(images).cross_entropy(labels)
        loss.backward()
        optimizer.step()
        return loss

    @jit
    def predict(images: Tensor) -> Tensor:
        with no_grad():
            return model(images).argmax(1).realize()

    print(
        f"{count} images to train with, {len(digits.test_images)} to test with; "
        f"{steps} steps an epoch"
    )
    last = min(options.epochs, epoch + (options.stop_after or options.epochs))
    share = float("nan")
    while epoch < last:
        start = time.perf_counter()
        model.train()
        # Order and shifts depend on the seed and the epoch alone: a resumed run sees the same.
        generator = numpy.random.default_rng([options.seed, epoch])
        order = generator.permutation(count)
        losses = []
        for step in range(steps):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            images = as_inputs(augment.shifted(digits.train_images[chosen], 2, generator))
            labels = Tensor(digits.train_labels[chosen].astype(numpy.int64))
            losses.append(train_step(images, labels).item())
            schedule.step()
        model.eval()
        share = accuracy(predict, digits.test_images, digits.test_labels, batch_size)
        epoch += 1
        progress = {"epoch": epoch, "schedule": schedule.state_dict(), "settings": settings}
        checkpoint.save(options.checkpoint, model, optimizer, progress)
        seconds = time.perf_counter() - start
        print(
            f"epoch {epoch:2}  loss {numpy.mean(losses):.6f}  "
            f"test accuracy {share:.2%}  {seconds:.1f} s",
            flush=True,
        )
    if epoch == options.epochs and share == share:
        print(f"test accuracy {share:.2%} after {epoch} epochs; checkpoint: {options.checkpoint}")


if __name__ == "__main__":
    try:
        main()
    except (DovetileError, mnist_data.DataError, OSError) as error:
        sys.exit(f"mnist.py: {error}")
