"""Train a character-level GPT on a text, and let it write.

python examples/gpt.py --text FILE
python examples/gpt.py --text FILE --resume     goes on from the last checkpoint, exactly
python examples/gpt.py --text FILE --resume --steps 0 --prompt "ROMEO:"   only writes
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import arguments
import checkpoint
import numpy

import dovetile
from dovetile import Tensor, jit, no_grad
from dovetile.errors import DovetileError
from dovetile_nn import Dropout, Embedding, LayerNorm, Linear, Module, ModuleList, init
from dovetile_optim import AdamW
from dovetile_optim.lr_scheduler import LambdaLR

OUTPUT = Path(__file__).parent / "output"
WARM_UP = 100
VALIDATION_SHARE = 10  # the last tenth of the text


class TextError(Exception):
    """The text or the settings cannot be used; the message says what would be right."""


class Block(Module):
    """One layer of the transformer: attention, then a perceptron, each on a residual path."""

    def __init__(self, width: int, heads: int, dropout: float, depth: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = LayerNorm(width)
        self.query_key_value = Linear(width, 3 * width)
        self.attention_output = Linear(width, width)
        self.perceptron_norm = LayerNorm(width)
        self.up = Linear(width, 4 * width)
        self.down = Linear(4 * width, width)
        self.dropout = Dropout(dropout)
        # As in GPT-2: small weights, smaller still where 2 * depth of them add up.
        for layer in (self.query_key_value, self.up, self.attention_output, self.down):
            residual = layer in (self.attention_output, self.down)
            std = 0.02 / math.sqrt(2 * depth) if residual else 0.02
            layer.weight = init.normal(*layer.weight.shape, std=std)
            layer.bias = init.constant(layer.out_features, value=0.0)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        joined = self.query_key_value(self.attention_norm(hidden))
        split = joined.reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = (split[:, :, index].transpose(1, 2) for index in range(3))
        mixed = query.scaled_dot_product_attention(key, value, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        hidden = hidden + self.dropout(self.attention_output(mixed))
        inner = self.up(self.perceptron_norm(hidden)).gelu()
        return hidden + self.dropout(self.down(inner))


class GPT(Module):
    """Tokens (batch, length) -> logits (batch, length, vocabulary) for the token after each."""

    def __init__(self, vocabulary: int, options: argparse.Namespace):
        super().__init__()
        self.token_embedding = Embedding(vocabulary, options.width)
        self.position_embedding = Embedding(options.context, options.width)
        for embedding in (self.token_embedding, self.position_embedding):
            embedding.weight = init.normal(*embedding.weight.shape, std=0.02)
        self.dropout = Dropout(options.dropout)
        self.blocks = ModuleList(
            Block(options.width, options.heads, options.dropout, options.layers)
            for _ in range(options.layers)
        )
        self.norm = LayerNorm(options.width)
        self.head = Linear(options.width, vocabulary, bias=False)
        self.head.weight = init.normal(vocabulary, options.width, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = self.position_embedding.weight[: tokens.shape[1]]
        hidden = self.dropout(self.token_embedding(tokens) + positions)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


def loss_of(model: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
    """The mean cross entropy, in nats a character."""
    logits = model(tokens)
    return logits.reshape(-1, logits.shape[-1]).cross_entropy(targets.reshape(-1))


class Text:
    """A text as numbers: one for each character that occurs in it."""

    def __init__(self, path: Path, context: int):
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise TextError(f"{path} is not UTF-8 text ({error})") from error
        self.characters = sorted(set(content))
        self.numbers = {character: number for number, character in enumerate(self.characters)}
        tokens = numpy.array([self.numbers[character] for character in content], numpy.int64)
        kept = len(tokens) - len(tokens) // VALIDATION_SHARE
        self.train, self.validation = tokens[:kept], tokens[kept:]
        if len(self.validation) < context + 1:
            raise TextError(
                f"{path} has {len(content)} characters; with --context {context} it must have at "
                f"least {VALIDATION_SHARE * (context + 1)}"
            )

    def batch(self, size: int, context: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Random passages and the characters after each; the same for the same seed and step."""
        generator = numpy.random.default_rng([seed, step])
        starts = generator.integers(0, len(self.train) - context, size)
        passages = numpy.stack([self.train[start : start + context + 1] for start in starts])
        return Tensor(passages[:, :-1].copy()), Tensor(passages[:, 1:].copy())

    def validation_loss(
        self, loss: Callable[[Tensor, Tensor], Tensor], size: int, context: int, batches: int | None
    ) -> float:
        """The mean of `loss` over the validation text, or its first `batches` batches."""
        rows = (len(self.validation) - 1) // context
        tokens = self.validation[: rows * context].reshape(rows, context)
        targets = self.validation[1 : rows * context + 1].reshape(rows, context)
        size = min(size, rows)
        losses = [
            loss(Tensor(tokens[first : first + size]), Tensor(targets[first : first + size])).item()
            for first in range(0, rows - size + 1, size)[:batches]
        ]
        return float(numpy.mean(losses))


def write(predict, text: Text, options: argparse.Namespace) -> str:
    """Text of `--sample` characters after the prompt, drawn one by one from the model."""
    generator = numpy.random.default_rng([options.seed, 1])
    written = [text.numbers[character] for character in options.prompt]
    for _ in range(options.sample):
        window = written[-options.context :]
        # One shape for all lengths, so that one capture serves: attention does not look ahead.
        padded = numpy.array([window + [0] * (options.context - len(window))], numpy.int64)
        logits = predict(Tensor(padded)).numpy()[0, len(window) - 1].astype(numpy.float64)
        weights = numpy.exp((logits - logits.max()) / options.temperature)
        written.append(int(generator.choice(len(weights), p=weights / weights.sum())))
    return "".join(text.characters[number] for number in written)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a character-level GPT on a text.")
    parser.add_argument("--text", type=Path, required=True, help="a UTF-8 text file")
    parser.add_argument("--steps", type=arguments.integer(0), default=2000)
    parser.add_argument("--batch-size", type=arguments.integer(1), default=12)
    parser.add_argument("--context", type=arguments.integer(1), default=64, help="characters seen")
    parser.add_argument("--layers", type=arguments.integer(1), default=4)
    parser.add_argument("--width", type=arguments.integer(1), default=128)
    parser.add_argument("--heads", type=arguments.integer(1), default=4)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--learning-rate", type=arguments.positive, default=3e-3)
    parser.add_argument("--seed", type=arguments.integer(0), default=0)
    parser.add_argument("--report-every", type=arguments.integer(1), default=250, help="steps")
    parser.add_argument("--checkpoint", type=Path, default=OUTPUT / "gpt.safetensors")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument(
        "--stop-after",
        type=arguments.integer(1),
        help="stop after this many steps, to resume later",
    )
    parser.add_argument(
        "--sample", type=arguments.integer(0), default=500, help="characters to write"
    )
    parser.add_argument("--temperature", type=arguments.positive, default=0.8)
    parser.add_argument("--prompt", default="\n", help="what the written text begins with")
    options = parser.parse_args(words)
    if options.width % options.heads:
        parser.error(f"--heads {options.heads} does not divide --width {options.width}")
    if not 0.0 <= options.dropout < 1.0:
        parser.error(f"--dropout {options.dropout} is not in [0, 1)")
    if not options.prompt:
        parser.error("--prompt is empty; give at least one character to begin with")
    return options


def main() -> None:
    options = parse_arguments()
    text = Text(options.text, options.context)
    unknown = sorted(set(options.prompt) - set(text.characters))
    if unknown:
        raise TextError(f"--prompt has {unknown}, which do not occur in {options.text}")

    dovetile.manual_seed(options.seed)
    model = GPT(len(text.characters), options)
    parameters = list(model.parameters())
    optimizer = AdamW(
        [
            # Matrices are pulled towards zero; gains and biases are not.
            {"params": [parameter for parameter in parameters if parameter.ndim >= 2]},
            {
                "params": [parameter for parameter in parameters if parameter.ndim < 2],
                "weight_decay": 0.0,
            },
        ],
        lr=options.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.1,
    )

    def rate(step: int) -> float:
        """Up in a line, then half a cosine down to a tenth."""
        cosine = (1 + math.cos(math.pi * min(1.0, step / max(1, options.steps)))) / 2
        return min(1.0, (step + 1) / WARM_UP) * (0.1 + 0.9 * cosine)

    schedule = LambdaLR(optimizer, rate)
    names = [
        "batch_size",
        "context",
        "layers",
        "width",
        "heads",
        "dropout",
        "learning_rate",
        "seed",
    ]
    settings = {name: getattr(options, name) for name in names}
    step = 0
    if options.resume:
        progress = checkpoint.load(options.checkpoint, model, optimizer)
        if progress["settings"] != settings:
            raise TextError(
                f"{options.checkpoint} is of a run with {progress['settings']}; "
                f"this one has {settings}"
            )
        step = progress["step"]
        dovetile.set_rng_state(progress["random"])
        schedule.load_state_dict(progress["schedule"])

    @jit
    def train_step(tokens: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, tokens, targets)
        loss.backward()
        optimizer.step()
        return loss

    @jit
    def evaluate(tokens: Tensor, targets: Tensor) -> Tensor:
        with no_grad():
            return loss_of(model, tokens, targets).realize()

    @jit
    def predict(tokens: Tensor) -> Tensor:
        with no_grad():
            return model(tokens).realize()

    def validation_loss(batches: int | None) -> float:
        model.eval()
        loss = text.validation_loss(evaluate, options.batch_size, options.context, batches)
        model.train()
        return loss

    count = sum(parameter.numel() for parameter in parameters)
    print(f"{len(text.characters)} characters, {count} parameters")
    last = min(options.steps, step + (options.stop_after or options.steps))
    start, losses = time.perf_counter(), []
    while step < last:
        tokens, targets = text.batch(options.batch_size, options.context, options.seed, step)
        losses.append(train_step(tokens, targets).item())
        schedule.step()
        step += 1
        if step % options.report_every == 0 or step == last:
            seconds = time.perf_counter() - start
            progress = {
                "step": step,
                "random": dovetile.get_rng_state(),
                "schedule": schedule.state_dict(),
                "settings": settings,
            }
            checkpoint.save(options.checkpoint, model, optimizer, progress)
            print(
                f"step {step:5}  loss {numpy.mean(losses):.4f}  validation loss "
                f"{validation_loss(20):.4f}  {seconds / len(losses) * 1e3:.1f} ms a step",
                flush=True,
            )
            start, losses = time.perf_counter(), []
    print(f"validation loss {validation_loss(None):.4f} after {step} steps")
    if options.sample:
        model.eval()
        print(write(predict, text, options))


if __name__ == "__main__":
    try:
        main()
    except (DovetileError, TextError, OSError) as error:
        sys.exit(f"gpt.py: {error}")
