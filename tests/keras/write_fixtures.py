"""Write files with the Keras of this Python, and its probabilities, into `files/LIBRARY-VERSION-BACKEND.zip`.

    python write_fixtures.py [keras|tf_keras|tf.keras]

It was run once for each library that `docs/internals/keras.md` names; `test_importing.py` reads the files. The patches
that old libraries need in a newer Python are in `old_python.py`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import networks
import numpy as np
import old_networks
import old_python

FILES = Path(__file__).with_name("files")
SEEDS = (3, 5, 18)  # of networks.py: small files
GAIN = 2.5
SHOWN = 4  # images


def main(name: str) -> None:
    """Write the archive."""
    keras, version, backend = old_python.load(name)
    is_new = version.startswith(("2.15", "2.21", "3"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        records: list[dict[str, Any]] = []
        for make in old_networks.NETWORKS:
            try:
                model = make(old_networks.Layers(keras, version))
            except Exception as error:  # a layer that this library does not have
                print(f"{make.__name__}: {type(error).__name__}: {error}"[:200], file=sys.stderr)
                continue
            networks.shake(model, 1, GAIN)
            files = [f"{make.__name__}.keras" if is_new and make.__name__ != "graph" else f"{make.__name__}.h5"]
            files += ["graph.weights.h5", "graph.json"] if make.__name__ == "graph" else []
            records += write(model, files, folder, old_networks.SIZE)
        if version.startswith("3"):
            for seed in SEEDS:
                records += write(networks.network(keras, seed)[0], [f"random{seed}.keras"], folder, networks.SIZE)
        path = FILES / f"{name}-{version}-{backend}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, file.name)
            archive.writestr("expected.json", json.dumps(records, indent=1))
        print(f"{path}: {path.stat().st_size:,} bytes, {len(records)} files")


def write(model: Any, files: list[str], folder: Path, size: int) -> list[dict[str, Any]]:
    """Write one model in some formats, and return its probabilities for the first images."""
    expected = [[round(float(value), 8) for value in row] for row in networks.probabilities(model, size)[:SHOWN]]
    assert np.isfinite(expected).all()
    records = []
    for file in files:
        if file.endswith(".json"):
            (folder / file).write_text(model.to_json())
            continue
        (model.save_weights if "weights" in file else model.save)(str(folder / file))
        architecture = file.replace(".weights.h5", ".json") if "weights" in file else None
        records.append({"file": file, "architecture": architecture, "size": size, "expected": expected})
    return records


if __name__ == "__main__":
    main((sys.argv[1:] or ["keras"])[0])
