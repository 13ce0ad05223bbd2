"""The records of a tuning: what its processes agree on, its trials, and the files and figures written from them."""

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from optuna import Study
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial
from pydantic import BaseModel, JsonValue

from cifarlab import figures, files, recipes
from cifarlab.errors import CifarlabError, UsageError, validated
from cifarlab.experiments.tuning import searchspace
from cifarlab.experiments.tuning.searchspace import Space
from cifarlab.experiments.tuning.sharing import REASON, SharedStudy, first_number
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics.significance import best_of_single_runs

TRIALS_FOR_IMPORTANCE = 8  # complete trials; the shares of fewer are noise
TRIALS_FOR_HISTORY = 2  # a figure of one trial shows no more than its number
PLAN, COMMAND = "plan", "command"  # user attributes of a study
STATES = {"FAIL": "failed", "WAITING": "running"}  # by Optuna's names, where they differ
DIFFERENCES = {"settings": "other settings of the recipe", "data": "other data or files", "space": "another --space"}


class Plan(BaseModel, frozen=True):
    """Settings that all processes of a tuning must share: the content of tuning.json, kept in the study too."""

    settings: dict[str, JsonValue]  # of the recipe, as far as they decide the training
    data: str  # SHA-256 of the data set, and of the weights and the user's code that trainings begin with
    space: dict[str, JsonValue]

    def agree(self, study: Study, folder: Path) -> None:
        """Write the plan into a new study and its folder, or raise UsageError if the study has another plan."""
        if PLAN not in study.user_attrs:
            study.set_user_attr(PLAN, self.model_dump_json())
        place = f"choose another --name, because the study {study.study_name!r} is no tuning"
        begun = validated(Plan, study.user_attrs[PLAN].encode(), place)
        for field, difference in DIFFERENCES.items():
            if getattr(begun, field) != getattr(self, field):
                raise UsageError(f"the tuning {folder.name!r} was begun with {difference}. Choose another --name.")
        files.make_folder(folder)
        files.write_text(folder / "tuning.json", self.model_dump_json(indent=2) + "\n")


def longest_command(study: Study, trials: int, command: str) -> str:
    """Return the command that asked for the most trials, for the head of best.toml, and keep it in the study."""
    longest = json.loads(study.user_attrs.get(COMMAND, '{"trials": 0}'))
    if trials > longest["trials"]:
        longest = {"trials": trials, "text": command}
        study.set_user_attr(COMMAND, json.dumps(longest))
    return str(longest["text"])


@dataclass(frozen=True)
class Trial:
    """A training within a tuning."""

    number: int
    state: str  # `complete`, `pruned`, `failed` or `running`
    validation_accuracy: float | None  # of the epoch that the recipe keeps, or of a pruned trial's last epoch
    epochs: int  # trained
    parameters: Mapping[str, object]  # values of the tuned settings, by key
    reason: str  # why the trial failed or was pruned; else empty
    run: str  # name of the run in the tuning's folder


@dataclass(frozen=True)
class Tuning:
    """The trials of a tuning, and the best of them."""

    folder: Path
    recipe: Recipe  # that was tuned
    trials: tuple[Trial, ...]  # including failed ones that were replaced
    importance: Mapping[str, float]  # shares of the variance between trials (fANOVA, Hutter et al. 2014), if not few

    @property
    def best(self) -> Trial | None:
        """Complete trial of the highest validation accuracy, the first of equals; None if no trial is complete."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return max(complete, key=lambda trial: trial.validation_accuracy or 0.0, default=None)

    @property
    def optimism(self) -> float | None:
        """By how much the validation accuracy of the best trial may be too high, as it was chosen; None if unknown."""
        accuracies = [trial.validation_accuracy or 0.0 for trial in self.trials if trial.state == "complete"]
        with suppress(CifarlabError):  # another machine may have the run
            if best := self.best:
                return best_of_single_runs(accuracies, RunFolder(self.folder / best.run).record.data.validation)
        return None

    @property
    def best_recipe(self) -> Recipe | None:
        """Recipe of the best trial, named after the tuning; None if no trial is complete."""
        best = self.best
        return self.recipe.changed({**best.parameters, "name": f"{self.folder.name}-best"}) if best else None

    @property
    def best_file(self) -> Path:
        """Path of `best_recipe` as a TOML file."""
        return self.folder / "best.toml"

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)


def collect(shared: SharedStudy, folder: Path, recipe: Recipe, space: Space) -> Tuning:
    """Return the trials of a study, including those of other processes."""
    trials = tuple(_trial(trial, space) for trial in shared.trials())
    accuracies = [trial.validation_accuracy for trial in trials if trial.state == "complete"]
    importance: dict[str, float] = {}
    if len(accuracies) >= TRIALS_FOR_IMPORTANCE and len(set(accuracies)) > 1:
        evaluator = FanovaImportanceEvaluator(seed=recipe.seed % 2**32)
        importance = get_param_importances(shared.study, evaluator=evaluator)
    return Tuning(folder, recipe, trials, importance)


def _trial(trial: FrozenTrial, space: Space) -> Trial:
    return Trial(
        number=first_number(trial),
        state=STATES.get(trial.state.name, trial.state.name.lower()),
        validation_accuracy=trial.value if trial.state.is_finished() else None,
        epochs=max(trial.intermediate_values, default=0),
        parameters={key: setting.value_of(trial.params[key]) for key, setting in space.items() if key in trial.params},
        reason=str(trial.user_attrs.get(REASON, "")),
        run=run_name(first_number(trial)),
    )


def counted(number: int) -> str:
    """Return a number of trials in words, such as `2 trials`."""
    return f"{number} trial{'' if number == 1 else 's'}"


def run_name(number: int) -> str:
    """Return the name of a trial's run in the tuning's folder."""
    return f"trial-{number:04}"


def write(tuning: Tuning, command: str = "") -> None:
    """Write trials.json, the figures, and the best trial's recipe into the tuning's folder."""
    folder = tuning.folder
    rows = {"trials": [asdict(trial) for trial in tuning.trials], "importance": dict(tuning.importance)}
    files.write_text(folder / "trials.json", json.dumps(rows, indent=2) + "\n")
    points = [
        (trial.number, trial.validation_accuracy, trial.state)
        for trial in tuning.trials
        if trial.state in ("complete", "pruned") and trial.validation_accuracy is not None
    ]
    drawn = {}
    if len(points) >= TRIALS_FOR_HISTORY:
        numbers, accuracies, states = zip(*points, strict=True)
        title = f"{folder.name}: accuracy on validation images"
        drawn["history"] = figures.tuning_history(numbers, accuracies, states, title)
    if tuning.importance:
        drawn["importance"] = figures.importances(tuning.importance, f"{folder.name}: importance of the settings")
    for stem, figure in drawn.items():
        for kind in ("svg", "png"):
            files.write_bytes(folder / f"{stem}.{kind}", figures.to_bytes(figure, kind))
    if tuning.best is not None and tuning.best_recipe is not None:
        files.write_text(tuning.best_file, recipes.to_toml(tuning.best_recipe, _origin(tuning, tuning.best, command)))


def _origin(tuning: Tuning, best: Trial, command: str) -> str:
    """Return the comment at the head of best.toml."""
    lines = [
        f"The best of {counted(len(tuning.trials))} of the tuning {tuning.folder.name!r} of {tuning.recipe.name!r}:",
        f"trial {best.number}, accuracy {best.validation_accuracy:.2%} on the validation images. That flatters it,",
        "because it was chosen by them. Only other images, such as the test images, judge it honestly.",
        f"Tuned: {searchspace.settings_text(best.parameters)}",
        *([command] if command else []),
        f"cifarlab train {shlex.quote(str(tuning.best_file))}",
    ]
    return "\n".join(lines)
