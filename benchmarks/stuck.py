"""Count how often `keras4` fails to learn in its first epoch: its published learning rate, 0.1, is near the limit.

    python benchmarks/stuck.py --seeds 0:46 --precision bf16 fp32

Prints the mean training loss of every hundred steps for each seed and precision, until the loss falls below 2.1. Then
counts the seeds whose loss stayed at that of guessing, ln 10 = 2.303.
"""

from __future__ import annotations

import argparse

import torch

from cifarlab import load_data, recipe
from cifarlab.data import batches
from cifarlab.device import keep_freed_memory
from cifarlab.training.loop import epoch_batches, set_training_mode, train_step
from cifarlab.training.optim import set_learning_rate
from cifarlab.training.preparation import prepare_images
from cifarlab.training.state import begin

LEARNED = 2.1  # nats; no seed returned to guessing after its loss fell below this
GUESSING = 2.29  # nats
WINDOW = 100  # steps averaged for each loss


def losses(model: str, seed: int, precision: str, steps: int) -> list[float]:
    """Return the mean loss of each window of the first epoch, until the network has learned."""
    device, data = torch.device("cpu"), load_data("cifar10", quiet=True).train
    chosen = recipe(model, seed=seed, precision=precision)
    training = begin(prepare_images(chosen, data, device))
    set_training_mode(training)
    order = epoch_batches(training, batches.to_device(data, device), epoch=0)
    means: list[float] = []
    before, epoch = 0.0, batches.steps_per_epoch(len(data), chosen.batch_size)
    for batch in order:
        if batch.step == steps or (means and means[-1] < LEARNED):
            break
        batches.seed_step(seed, 0, batch.step)
        set_learning_rate(training.optimizer, chosen, batch.step, epoch)
        train_step(training, batch)
        if (batch.step + 1) % WINDOW == 0:
            total = float(training.loss_sum)
            means.append((total - before) / WINDOW / chosen.batch_size)
            before = total
    return means


def main() -> None:
    """Print the losses and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="keras4")
    parser.add_argument("--seeds", default="0:46", help="FROM:TO")
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--steps", type=int, default=1_500)
    arguments = parser.parse_args()
    first, last = map(int, arguments.seeds.split(":"))
    keep_freed_memory()
    stuck: dict[str, list[int]] = {precision: [] for precision in arguments.precision}
    for seed in range(first, last):
        for precision in arguments.precision:
            means = losses(arguments.model, seed, precision, arguments.steps)
            if min(means[-3:]) > GUESSING:
                stuck[precision].append(seed)
            print(seed, precision, *(f"{loss:.3f}" for loss in means), flush=True)
    for precision, seeds in stuck.items():
        print(f"{precision}: {len(seeds)} of {last - first} seeds stuck: {', '.join(map(str, seeds)) or 'none'}")


if __name__ == "__main__":
    main()
