"""Cross-validation: predict each image of a data set with a network that was not trained on it."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from cifarlab.data.dataset import Data, Dataset, Parts, folds_of, split
from cifarlab.device import choose_device
from cifarlab.errors import Interrupted, UsageError
from cifarlab.progress import task
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import create_run
from cifarlab.runs.record import Computation
from cifarlab.training.loop import fit, settle
from cifarlab.training.preparation import load_source, new_record, prepare_parts
from cifarlab.training.session import Session


def cross_validate(
    recipe: Recipe, dataset: Dataset, folds: int, *, quiet: bool = False
) -> tuple[Float32[np.ndarray, "n classes"], Int64[np.ndarray, " n"]]:
    """Return the logits of each image by a network that was not trained on it, and the number of the image's fold.

    Each fold is predicted by a new network, which is trained by the recipe on the other folds.
    """
    if not 2 <= folds <= len(dataset) // 2:
        raise UsageError(f"folds must be from 2 to {len(dataset) // 2}, half the images, got {folds}")
    recipe, source = load_source(recipe, None)
    fold_of_image = folds_of(dataset, folds, recipe.seed)
    logits = np.zeros((len(dataset), len(dataset.classes)), np.float32)
    computed: tuple[Computation, ...] = ()
    with tempfile.TemporaryDirectory() as runs, task("cross-validation", folds, quiet=quiet) as progress:
        for fold in range(folds):
            held_out = np.flatnonzero(fold_of_image == fold)
            train, test = dataset.select(np.flatnonzero(fold_of_image != fold)), dataset.select(held_out)
            validation = test
            if recipe.validate_on == "validation":
                train, validation = split(train, recipe.validation_fraction, recipe.seed)
            data = Data("memory", train, test)
            parts = Parts(train, validation, test, "the test images are one fold")
            prepared = prepare_parts(recipe, data, parts, choose_device(), source=source)
            prepared = replace(prepared, computed=computed) if fold else settle(prepared)
            computed = prepared.computed
            run = create_run(RunFolder, Path(runs) / str(fold), new_record(prepared))
            try:
                fit(prepared, Session(run, quiet=True))
            except Interrupted as error:
                raise Interrupted(f"{str(error).split(',')[0]}; nothing was written", error.status - 128) from error
            assert run.predictions is not None  # a finished run has them
            logits[held_out] = run.predictions[0]
            progress.advance(1)
    return logits, fold_of_image
