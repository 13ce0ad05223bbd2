"""Train keras4, keras6 and ygnet in Keras, import them, and compare accuracies on all test images of CIFAR-10.

    python tests/keras/trained.py --keras-python PYTHON [--epochs 1] [--images 50000]

PYTHON as in `parity.py`. An epoch of all three takes about twenty minutes on two cores; fewer images only try the
script. It fails if an accuracy differs by a single image, or a probability by more than 1e-5.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import cifarlab
from cifarlab.statistics.metrics import probabilities

LARGEST = 1e-5


def main() -> int:
    """Train, import, compare and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras-python", required=True, help="the Python that has Keras")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=50_000, help="to train on")
    parser.add_argument("--test-images", type=int, default=10_000)
    arguments = parser.parse_args()
    data = cifarlab.load_data("cifar10")
    test = data.test.select(np.arange(arguments.test_images))
    folder = Path(tempfile.mkdtemp())
    np.savez(
        folder / "cifar10.npz",
        x_train=data.train.images[: arguments.images].transpose(0, 2, 3, 1),
        y_train=data.train.labels[: arguments.images],
        x_test=test.images.transpose(0, 2, 3, 1),
        y_test=test.labels,
    )
    script = Path(__file__).with_name("train_models.py")
    subprocess.run([arguments.keras_python, str(script), str(folder), str(arguments.epochs)], check=True)
    failed = False
    print(f"\n{'file':16}{'Keras':>10}{'imported':>10}{'largest difference':>22}")
    for record in json.loads((folder / "trained.json").read_text()):
        classifier = cifarlab.import_keras(folder / record["file"])
        evaluation = cifarlab.evaluate(classifier, cifarlab.Data("cifar10", data.train, test, "", "", ""))
        expected = np.load(folder / f"{record['network']}.npy")
        difference = float(np.abs(probabilities(evaluation.logits) - expected).max())
        failed |= difference > LARGEST or evaluation.accuracy != record["accuracy"]
        print(f"{record['file']:16}{record['accuracy']:>10.2%}{evaluation.accuracy:>10.2%}{difference:>22.1e}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
