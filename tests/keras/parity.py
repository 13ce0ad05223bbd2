"""Compares imported files with the Keras that wrote them: the same images, the largest difference of a probability.

    python tests/keras/parity.py --keras-python PYTHON [--library keras] [--models 100]

PYTHON is one in which `pip install -r tests/keras/requirements.txt` was done; it makes random models of every layer
that `cifarlab import` reads and saves them in every format that it writes. This script runs in cifarlab's own Python,
imports each file, and fails where a probability differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from networks import images

from cifarlab import UsageError, import_keras
from cifarlab.evaluation import predict

LARGEST = 1e-5
FORMATS = {".h5": "HDF5", ".keras": "Keras 3 archive", ".weights.h5": "weights and JSON"}


def difference(folder: Path, seed: int, file: str) -> float:
    """The largest of a file's probabilities."""
    path = folder / file
    architecture = folder / f"{seed}.json" if "weights" in file else None
    classifier = import_keras(path, architecture=architecture, normalize="unit")
    found = predict(classifier, np.ascontiguousarray(images().transpose(0, 3, 1, 2)))
    return float(np.abs(found - np.load(folder / f"{seed}.npy")).max())


def main() -> int:
    """Makes the models, compares, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras-python", help="the Python that has Keras")
    parser.add_argument("--library", default="keras", help="keras, tf_keras or tf.keras")
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="models that make_models.py has made already")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    if given.folder is None:
        script = Path(__file__).with_name("make_models.py")
        subprocess.run([given.keras_python, str(script), str(folder), str(given.models), given.library], check=True)
    by_format, by_kind = defaultdict(list), defaultdict(list)
    failed = 0
    for record in json.loads((folder / "models.json").read_text()):
        for file in record["files"]:
            try:
                found = difference(folder, record["seed"], file)
            except UsageError as error:
                print(f"{file}: {error}")
                found = np.inf
            if not found <= LARGEST:
                failed += 1
                print(f"{file}: {found:.2e}: {record['kinds']}")
            by_format[FORMATS[file.removeprefix(str(record["seed"]))]].append(found)
            for kind in record["kinds"].split():
                by_kind[kind].append(found)
    for table, title in ((by_format, "format"), (by_kind, "models with")):
        print(f"\n{title:24}{'files':>8}{'largest difference':>22}")
        for name, values in sorted(table.items()):
            print(f"{name:24}{len(values):>8}{max(values):>22.1e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
