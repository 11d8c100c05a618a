"""A training step of a convolutional network for MNIST, batch 512, Adam: us against PyTorch eager.

The network is the one known as "beautiful MNIST": two 5 x 5 and two 3 x 3 convolutions with batch
normalisation and pooling. The images are random: their values do not change the work.

python benchmarks/train_mnist.py [--json FILE] [--batch-size N] [--seconds S]
"""

from __future__ import annotations

import measure

measure.use_threads()

import mnist_network  # noqa: E402
import numpy  # noqa: E402
import torch  # noqa: E402

import dovetile_nn  # noqa: E402
import dovetile_optim  # noqa: E402
from dovetile import Tensor, jit  # noqa: E402


def main() -> None:
    report = measure.Report(__doc__ or "")
    report.parser.add_argument("--batch-size", type=int, default=512)
    report.parser.add_argument("--seconds", type=float, default=15.0)
    options = report.parser.parse_args()
    torch.set_num_threads(measure.THREADS)
    generator = numpy.random.default_rng(0)
    images = generator.random((options.batch_size, 1, 28, 28), dtype=numpy.float32)
    labels = generator.integers(0, 10, options.batch_size)

    their_model = torch.nn.Sequential(*mnist_network.layers(torch.nn))
    our_model = dovetile_nn.Sequential(*mnist_network.layers(dovetile_nn))
    our_model.load_state_dict(their_model.state_dict())
    our_optimizer = dovetile_optim.Adam(our_model.parameters())
    their_optimizer = torch.optim.Adam(their_model.parameters())

    @jit
    def captured(inputs: Tensor, targets: Tensor) -> Tensor:
        our_optimizer.zero_grad()
        loss = our_model(inputs).cross_entropy(targets)
        loss.backward()
        our_optimizer.step()
        return loss

    our_inputs, our_targets = Tensor(images), Tensor(labels)
    their_inputs, their_targets = torch.from_numpy(images), torch.from_numpy(labels)

    def ours() -> float:
        return captured(our_inputs, our_targets).item()

    def theirs() -> float:
        their_optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(their_model(their_inputs), their_targets)
        loss.backward()
        their_optimizer.step()
        return loss.item()

    # Both start from the same weights: the first losses show that both do the same work.
    for step in range(3):
        pair = ours(), theirs()
        print(f"step {step}: loss {pair[0]:.5f}, torch's {pair[1]:.5f}")
        numpy.testing.assert_allclose(pair[0], pair[1], rtol=1e-2)
    contenders = {"dovetile": ours, "torch": theirs}
    medians = measure.alternate(contenders, seconds=options.seconds, warm_up=1)
    report.add(f"MNIST training step, batch {options.batch_size}", medians)
    report.write(options.json)


if __name__ == "__main__":
    main()
