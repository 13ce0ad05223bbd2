"""What a tuning found: its trials as the study has them, which is best, and the files and pictures that say so."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarlab import figures, files, recipes
from cifarlab.experiments.tuning import searchspace
from cifarlab.experiments.tuning.searchspace import Space
from cifarlab.recipes import Recipe

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from cifarlab.experiments.tuning.sharing import Shared

TRIALS_FOR_IMPORTANCE = 8  # complete ones; with fewer the shares are noise
TRIALS_FOR_HISTORY = 2  # a picture of one says no more than its figure
PICTURES = ("history", "importance")


@dataclass(frozen=True)
class Trial:
    """One training of a tuning."""

    number: int
    state: str
    """`complete`, `pruned`, `failed` or `running`."""
    validation_accuracy: float | None
    """Of the epoch that the recipe keeps; of a pruned one that of its last; None where there is none."""
    epochs: int
    """That it has trained."""
    parameters: Mapping[str, Any]
    reason: str
    """Why it failed or was pruned."""
    run: str
    """The name of its run in the tuning's folder."""


@dataclass(frozen=True)
class Tuning:
    """What a tuning found."""

    folder: Path
    recipe: Recipe
    """The one that was begun with."""
    trials: tuple[Trial, ...]
    """All, with those that failed and that others stand in for."""
    importance: Mapping[str, float]
    """The share of each key in the spread of complete trials (fANOVA, Hutter et al. 2014); empty with few."""

    @property
    def best(self) -> Trial | None:
        """The complete trial of the highest validation accuracy, the first of equals; None where none is complete."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return max(complete, key=lambda trial: trial.validation_accuracy or 0.0, default=None)

    @property
    def best_recipe(self) -> Recipe | None:
        """The recipe of the best trial, called after the tuning."""
        if self.best is None:
            return None
        return self.recipe.changed({**self.best.parameters, "name": f"{self.folder.name}-best"})

    @property
    def pictures(self) -> tuple[str, ...]:
        """What of `history` and `importance` lies drawn in the folder: of few trials there is nothing to draw."""
        return tuple(stem for stem in PICTURES if (self.folder / f"{stem}.png").is_file())

    @property
    def best_file(self) -> Path:
        """Where `best_recipe` lies as a file."""
        return self.folder / "best.toml"

    def count(self, state: str) -> int:
        """How many trials are in this state."""
        return sum(trial.state == state for trial in self.trials)


def collect(shared: Shared, folder: Path, recipe: Recipe, space: Space) -> Tuning:
    """What the study holds, whoever trained it."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    by_number = {trial.number: trial for trial in (*shared.trials().values(), *shared.failed())}
    trials = [by_number[number] for number in sorted(by_number)]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    importance: dict[str, float] = {}
    if len(complete) >= TRIALS_FOR_IMPORTANCE and len({trial.value for trial in complete}) > 1:
        found = get_param_importances(shared.study, evaluator=FanovaImportanceEvaluator(seed=recipe.seed % 2**32))
        importance = {key: float(share) for key, share in found.items()}
    return Tuning(folder, recipe, tuple(_told(trial, space) for trial in trials), importance)


def _told(trial: FrozenTrial, space: Space) -> Trial:
    from cifarlab.experiments.tuning.sharing import REASON

    states = {"FAIL": "failed", "WAITING": "running"}
    return Trial(
        number=trial.number,
        state=states.get(trial.state.name, trial.state.name.lower()),
        validation_accuracy=trial.value if trial.state.is_finished() else None,
        epochs=max(trial.intermediate_values, default=0),
        parameters={each.key: each.value_of(trial.params[each.key]) for each in space if each.key in trial.params},
        reason=str(trial.user_attrs.get(REASON, "")),
        run=run_name(trial.number),
    )


def counted(number: int) -> str:
    """So many trials, in words."""
    return f"{number} trial{'' if number == 1 else 's'}"


def run_name(number: int) -> str:
    """The name of a trial's run in the tuning's folder."""
    return f"trial-{number:04}"


def write(tuning: Tuning, command: str = "") -> None:
    """Writes trials.json, the pictures, and the best trial's recipe into the tuning's folder."""
    folder = tuning.folder
    rows = {"trials": [asdict(trial) for trial in tuning.trials], "importance": dict(tuning.importance)}
    files.write_text(folder / "trials.json", json.dumps(rows, indent=2) + "\n")
    for stem, figure in _drawn(tuning).items():
        for kind in ("svg", "png"):
            files.write_bytes(folder / f"{stem}.{kind}", figures.to_bytes(figure, kind))
    if tuning.best is not None and tuning.best_recipe is not None:
        files.write_text(tuning.best_file, recipes.to_toml(tuning.best_recipe, _origin(tuning, tuning.best, command)))


def _drawn(tuning: Tuning) -> dict[str, Any]:
    shown = [trial for trial in tuning.trials if trial.state in ("complete", "pruned")]
    shown = [trial for trial in shown if trial.validation_accuracy is not None]
    found: dict[str, Callable[[], Any]] = {}
    numbers, accuracies = [each.number for each in shown], [each.validation_accuracy or 0.0 for each in shown]
    title = f"{tuning.folder.name}: accuracy on validation images"
    if len(shown) >= TRIALS_FOR_HISTORY:
        states = [each.state for each in shown]
        found["history"] = lambda: figures.tuning_history(numbers, accuracies, states, title)
    if tuning.importance:
        found["importance"] = lambda: figures.importances(tuning.importance, f"{tuning.folder.name}: what matters")
    return {stem: draw() for stem, draw in found.items()}


def _origin(tuning: Tuning, best: Trial, command: str) -> str:
    lines = [
        f"The best of {counted(len(tuning.trials))} of the tuning {tuning.folder.name!r} of {tuning.recipe.name!r}:",
        f"trial {best.number}, accuracy {best.validation_accuracy:.2%} on the validation images, which flatters it:",
        "it was chosen by them. Only other images, such as the test images, judge it honestly.",
        f"Tuned: {searchspace.shown(best.parameters)}",
        *([command] if command else []),
        f"cifarlab train {shlex.quote(str(tuning.best_file))}",
    ]
    return "\n".join(lines)
