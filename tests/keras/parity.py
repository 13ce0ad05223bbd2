"""Compare imported files with the Keras that wrote them: the largest difference of a probability on the same images.

    python tests/keras/parity.py --keras-python PYTHON [--libraries keras tf_keras] [--models 100]

PYTHON needs the packages of tests/keras/requirements.txt. It makes random models with every layer that
`cifarlab import` supports, and saves them in every format of Keras. This script runs in cifarlab's own Python, imports
each file, and fails if a probability differs by more than 1e-5.
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
from cifarlab.inference.prediction import predict

LARGEST = 1e-5
FORMATS = {".h5": "HDF5", ".keras": "Keras 3 archive", ".weights.h5": "weights and JSON"}


def difference(folder: Path, seed: int, file: str) -> float:
    """Return the largest difference of a probability for one file."""
    path = folder / file
    architecture = folder / f"{seed}.json" if "weights" in file else None
    classifier = import_keras(path, architecture=architecture, normalize="unit")
    imported = predict(classifier, np.ascontiguousarray(images().transpose(0, 3, 1, 2)))
    return float(np.abs(imported - np.load(folder / f"{seed}.npy")).max())


def make_models(python: str, library: str, models: int) -> Path | None:
    """Return a folder of models that a library wrote, or None if that Python does not have the library."""
    has_library = (
        f"import importlib.util, sys; sys.exit(importlib.util.find_spec({library.partition('.')[0]!r}) is None)"
    )
    if subprocess.run([python, "-c", has_library]).returncode:
        return None
    folder = Path(tempfile.mkdtemp())
    script = Path(__file__).with_name("make_models.py")
    command = [python, str(script), str(folder), str(models), library]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True)  # TensorFlow prints many warnings
    if ended.returncode:
        sys.exit(ended.stderr)
    return folder


def compare(folder: Path, library: str) -> int:
    """Print the tables of one library's models, and return the number of files that failed."""
    by_format, by_kind = defaultdict(list), defaultdict(list)
    failed = 0
    for record in json.loads((folder / "models.json").read_text()):
        for file in record["files"]:
            try:
                largest = difference(folder, record["seed"], file)
            except UsageError as error:
                print(f"{file}: {error}")
                largest = np.inf
            if not largest <= LARGEST:
                failed += 1
                print(f"{file}: {largest:.2e}: {record['kinds']}")
            by_format[FORMATS[file.removeprefix(str(record["seed"]))]].append(largest)
            for kind in record["kinds"].split():
                by_kind[kind].append(largest)
    for table, title in ((by_format, f"{library}, format"), (by_kind, "models with")):
        print(f"\n{title:24}{'files':>8}{'largest difference':>22}")
        for name, values in sorted(table.items()):
            print(f"{name:24}{len(values):>8}{max(values):>22.1e}")
    return failed


def main() -> int:
    """Make the models, compare them and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras-python", required=True, help="the Python that has Keras")
    parser.add_argument("--libraries", nargs="+", default=["keras", "tf_keras"], help="keras, tf_keras or tf.keras")
    parser.add_argument("--models", type=int, default=100, help="for each library")
    arguments = parser.parse_args()
    failed = compared = 0
    for library in arguments.libraries:
        folder = make_models(arguments.keras_python, library, arguments.models)
        if folder is None:
            print(f"{library}: not installed there, left out")
            continue
        compared += 1
        failed += compare(folder, library)
    return int(bool(failed) or not compared)


if __name__ == "__main__":
    sys.exit(main())
