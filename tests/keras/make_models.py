"""Write random models with the Keras of this Python, in every format that it writes, and their probabilities.

python make_models.py FOLDER NUMBER [keras|tf_keras|tf.keras]
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import networks
import numpy as np

MIN_RANGE = 0.02  # of a probability over the images; equal probabilities for all images would prove nothing


def main(folder: Path, number: int, name: str) -> None:
    """Make the models."""
    keras: Any = importlib.import_module("tensorflow").keras if name == "tf.keras" else importlib.import_module(name)
    records = []
    seed = made = 0
    while made < number:
        seed += 1
        try:
            model, kinds = networks.network(keras, seed)
            expected = networks.probabilities(model)
        except Exception as error:  # Keras or TensorFlow cannot compute it on a CPU
            print(f"seed {seed}: {type(error).__name__}: {str(error).splitlines()[0][:150]}", file=sys.stderr)
            continue
        if not np.ptp(expected, axis=0).max() > MIN_RANGE:
            continue
        made += 1
        files = []
        for file in (f"{seed}.h5", f"{seed}.keras", f"{seed}.weights.h5"):
            try:
                (model.save_weights if "weights" in file else model.save)(folder / file)
                files.append(file)
            except ValueError as error:  # Keras 3.0 gives two arrays of nested models one name
                print(f"seed {seed}: {error}", file=sys.stderr)
        (folder / f"{seed}.json").write_text(model.to_json())
        np.save(folder / f"{seed}.npy", expected)
        records.append({"seed": seed, "kinds": kinds, "files": files})
        keras.backend.clear_session()
    (folder / "models.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), (sys.argv[3:] or ["keras"])[0])
