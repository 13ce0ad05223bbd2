"""Compare ways to train on 30 and 100 pictures a class: the recipe `small`, from scratch, and plain fine-tuning.

    python benchmarks/small_sets.py --fashion FOLDER --out small_sets.jsonl

FOLDER holds the four files of Fashion-MNIST. No picture has been seen by the shipped weights, which were trained on
CIFAR-10's training images: all pictures of CIFAR-10 come from its test images. Each seed draws training pictures of its
own; the test pictures are always the same. A line is added to the file after each training, and trainings that the file
has are not repeated. Prints a Markdown table of the test accuracies in percent; `--table` does only that, for the
trainings that are done. `small` tests with six views of each picture, as it does for its users; the others do not.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cifarlab import load_data, recipe
from cifarlab.data.arrays import in_memory
from cifarlab.data.dataset import Dataset
from cifarlab.inference.evaluation import evaluate
from cifarlab.inference.weights_file import load_weights
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import create_run
from cifarlab.training.loop import fit
from cifarlab.training.preparation import new_record, prepare
from cifarlab.training.session import Session

IMAGES = (30, 100)  # training pictures a class, of which the recipe takes its validation pictures
TEST_IMAGES = 150  # a class
POOL = 400  # pictures a class that the training pictures are drawn from
EPOCHS = {30: 60, 100: 20}  # from scratch, by pictures a class: as many pictures as `small` sees of 100 a class
CONTESTANTS: dict[str, tuple[str, dict[str, Any]]] = {  # recipe and changes
    "small": ("small", {}),
    "fast90 from scratch": ("fast90", {"keep": "best-of-few"}),
    "lenet5 from pretrained:fastnet": ("lenet5", {"start_from": "pretrained:fastnet", "keep": "best-of-few"}),
}
ORIENTATION = 0x0112  # tag in EXIF: how a camera was held
TURNS = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
SHAPES = ((1.0, 1.0), (1.33, 1.0), (1.0, 1.33), (1.78, 1.0), (1.0, 1.5))  # width and height; 1 is the object's side


def cifar10_test(classes: tuple[str, ...]) -> Dataset:
    """Return CIFAR-10's test images of some classes."""
    test = load_data("cifar10", quiet=True).test
    numbers = [test.classes.index(name) for name in classes]
    chosen = np.flatnonzero(np.isin(test.labels, numbers))
    labels = np.array([numbers.index(label) for label in test.labels[chosen]], dtype=np.int64)
    return Dataset(np.array(test.images[chosen]), labels, classes)


def pets(fashion: Path) -> Dataset:
    """Return cats, dogs and frogs."""
    return cifar10_test(("cat", "dog", "frog"))


def clothes(fashion: Path) -> Dataset:
    """Return grey pictures of 28 pixels of three garments that are easily confused."""
    names = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    classes = ("Pullover", "Coat", "Shirt")
    pixels = gzip.decompress((fashion / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = np.frombuffer(gzip.decompress((fashion / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28)
    numbers = [names.index(name) for name in classes]
    chosen = np.isin(labels, numbers)
    words = np.array([names[label] for label in labels[chosen]])
    return in_memory({"x_train": images[chosen], "y_train": words, "classes": classes}, 32).train


def photographs(fashion: Path) -> Dataset:
    """Return birds, deer and horses, read from JPEG files of several shapes, sizes, exposures and orientations."""
    images = cifar10_test(("bird", "deer", "horse"))
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
            path = Path(folder, images.classes[label], f"{number:05}.jpg")
            path.parent.mkdir(exist_ok=True)
            side = int(generator.integers(40, 240))
            left, top, right, bottom = generator.integers(0, 7, 4)  # a camera seldom frames its object exactly
            bright = np.clip(pixels * generator.uniform(0.5, 1.5) + generator.normal(0, 10, pixels.shape), 0, 255)
            tile = Image.fromarray(bright.astype(np.uint8).transpose(1, 2, 0))
            tile = tile.resize((side, side), Image.Resampling.BICUBIC, (left, top, 32 - right, 32 - bottom))
            wide, high = SHAPES[generator.integers(len(SHAPES))]
            edges = [(round(side * (more - 1) / 2),) * 2 for more in (high, wide)]  # a background around the object
            picture = Image.fromarray(np.pad(np.asarray(tile), [*edges, (0, 0)], mode="symmetric"))
            exif = Image.Exif()
            exif[ORIENTATION] = turn = int(generator.choice(list(TURNS)))
            picture = picture if TURNS[turn] is None else picture.transpose(TURNS[turn])
            picture.save(path, quality=int(generator.integers(30, 95)), exif=exif)
        data = load_data(f"folder:{folder}", quiet=True)
        return Dataset(
            np.concatenate([data.train.images, data.test.images]),
            np.concatenate([data.train.labels, data.test.labels]),
            data.classes,
        )


SETS: dict[str, Callable[[Path], Dataset]] = {"clothes": clothes, "pets": pets, "photographs": photographs}


@cache
def pictures(name: str, fashion: Path) -> Dataset:
    """Return all pictures of a set, made once."""
    return SETS[name](fashion)


def draw(whole: Dataset, count: int, seed: int) -> dict[str, Any]:
    """Return arrays with `count` training pictures a class, drawn by the seed, and the test pictures."""
    members = [np.flatnonzero(whole.labels == label) for label in range(len(whole.classes))]
    fixed = [np.random.default_rng(0).permutation(each) for each in members]
    test = np.concatenate([each[:TEST_IMAGES] for each in fixed])
    generator = np.random.default_rng([seed, count])
    train = np.concatenate([generator.permutation(each[TEST_IMAGES:][:POOL])[:count] for each in fixed])
    arrays = {"x_train": whole.images[train], "y_train": whole.labels[train]}
    return arrays | {"x_test": whole.images[test], "y_test": whole.labels[test], "classes": whole.classes}


def accuracy(chosen: Recipe, arrays: dict[str, Any]) -> dict[str, float]:
    """Train on arrays and return the test accuracies of the kept and of the last weights, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(chosen, data=arrays)
        run = create_run(RunFolder, Path(folder, "run"), new_record(prepared), "next")
        fit(prepared, Session(run, quiet=True))
        results = run.record.results
        assert results is not None
        last_accuracy = results.test_accuracy
        if results.kept_epoch < results.epochs:
            last = load_weights(run.path / "last.safetensors")
            last_accuracy = evaluate(last, prepared.parts.test, tta=chosen.tta).accuracy
        return {
            "accuracy": results.test_accuracy,
            "last_accuracy": last_accuracy,
            "epoch": results.kept_epoch,
            "seconds": round(results.train_seconds, 1),
        }


def main() -> None:
    """Train what is missing in the file, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, required=True, help="folder of Fashion-MNIST's four .gz files")
    parser.add_argument("--out", type=Path, default=Path("small_sets.jsonl"))
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--images", nargs="+", type=int, default=list(IMAGES))
    parser.add_argument("--recipes", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="only print the table of what is done")
    arguments = parser.parse_args()
    keys = ("set", "images", "recipe", "seed")
    lines = arguments.out.read_text(encoding="utf-8").splitlines() if arguments.out.exists() else []
    done = {tuple(row[key] for key in keys): row for row in map(json.loads, lines)}
    groups = [(name, count, way) for count in arguments.images for name in arguments.sets for way in arguments.recipes]
    for seed in range(0 if arguments.table else arguments.seeds):
        for name, count, way in groups:
            if (key := (name, count, way, seed)) not in done:
                base, changes = CONTESTANTS[way]
                if "scratch" in way:
                    changes = changes | {"epochs": EPOCHS.get(count, 20)}
                arrays = draw(pictures(name, arguments.fashion), count, seed)
                row = dict(zip(keys, key, strict=True)) | accuracy(recipe(base, seed=seed, **changes), arrays)
                with arguments.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                done[key] = row
    print(f"| pictures | a class | recipe | test accuracies of seeds 0 to {arguments.seeds - 1}, % | median, % |")
    print("| --- | --- | --- | --- | --- |")
    for name, count, way in sorted(groups):
        rows = [done[key] for seed in range(arguments.seeds) if (key := (name, count, way, seed)) in done]
        values = [100 * row["accuracy"] for row in rows]
        each = ", ".join(f"{value:.1f}" for value in values)
        if values:
            print(f"| {name} | {count} | {way} | {each} | {statistics.median(values):.1f} |")


if __name__ == "__main__":
    main()
