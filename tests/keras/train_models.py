"""Train three networks in the Keras of this Python and save them; `trained.py` calls this script and imports them.

    python train_models.py FOLDER EPOCHS

FOLDER holds `cifar10.npz` with uint8 arrays `x_train`, `x_test` [n, 32, 32, 3] and int64 arrays `y_train`, `y_test`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def keras4(layers: Any) -> list[Any]:
    """Two pairs of convolutions."""
    network = []
    for maps in (32, 64):
        network += [
            layers.Conv2D(maps, 3, padding="same", activation="relu"),
            layers.Conv2D(maps, 3, activation="relu"),
        ]
        network += [layers.MaxPooling2D(), layers.Dropout(0.25)]
    return [
        *network,
        layers.Flatten(),
        layers.Dense(512, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(10, activation="softmax"),
    ]


def keras6(layers: Any) -> list[Any]:
    """Three pairs of convolutions and a dense layer with limited weights."""
    network = []
    for maps in (32, 64, 128):
        network += [layers.Conv2D(maps, 3, padding="same", activation="relu"), layers.Dropout(0.2)]
        network += [layers.Conv2D(maps, 3, padding="same", activation="relu"), layers.MaxPooling2D()]
    limit = importlib.import_module("keras").constraints.MaxNorm(3)
    network += [layers.Flatten(), layers.Dropout(0.2), layers.Dense(1024, activation="relu", kernel_constraint=limit)]
    return [*network, layers.Dropout(0.2), layers.Dense(10, activation="softmax")]


def ygnet(layers: Any) -> list[Any]:
    """All-CNN-C with pooling."""
    same = {"padding": "same", "activation": "relu"}
    return [
        layers.Conv2D(96, 3, **same),
        layers.Dropout(0.2),
        layers.Conv2D(96, 3, **same),
        layers.Conv2D(96, 3, **same),
        layers.MaxPooling2D(3, 2),
        layers.Dropout(0.5),
        layers.Conv2D(192, 3, **same),
        layers.Conv2D(192, 3, activation="relu"),
        layers.Conv2D(192, 3, **same),
        layers.MaxPooling2D(3, 2),
        layers.Dropout(0.5),
        layers.Conv2D(192, 3, **same),
        layers.Conv2D(192, 1, activation="relu"),
        layers.Conv2D(10, 1),
        layers.GlobalAveragePooling2D(),
        layers.Activation("softmax"),
    ]


def main(folder: Path, epochs: int) -> None:
    """Train, save and predict."""
    keras: Any = importlib.import_module("keras")
    with np.load(folder / "cifar10.npz") as arrays:
        x_train, y_train, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    records = []
    for make in (keras4, keras6, ygnet):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((32, 32, 3)), *make(keras.layers)])
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
        model.fit(x_train.astype(np.float32) / 255, y_train, batch_size=32, epochs=epochs, verbose=2)
        probabilities = model.predict(x_test.astype(np.float32) / 255, batch_size=500, verbose=0)
        np.save(folder / f"{make.__name__}.npy", probabilities)
        accuracy = float((probabilities.argmax(1) == y_test).mean())
        for ending in (".keras", ".h5"):
            model.save(folder / f"{make.__name__}{ending}")
            records.append({"network": make.__name__, "file": f"{make.__name__}{ending}", "accuracy": accuracy})
    (folder / "trained.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
