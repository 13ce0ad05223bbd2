"""Types of the values in a run folder: run.json, a row of metrics.csv, and progress.json.

They are frozen, and checked when they are read. Values that later versions added have defaults, so that records of
older runs still open.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from cifarlab.recipes import Recipe
from cifarlab.recipes.recipe import MOST_THREADS

# Paths may change with the machine, and threads change last digits only.
_NOT_IDENTITY = {"dataset", "start_from", "model", "description", "published", "threads"}
CHECKPOINT_EVERY = "5m"  # default time between checkpoints within an epoch
# Limits that no training reaches, so that forged values neither overflow nor take all memory.
Count = Annotated[int, Field(ge=0, le=10**9)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]
Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class EpochRow:
    """Metrics of one epoch, a row of metrics.csv. Losses are in nats, accuracies are fractions of 1."""

    epoch: Count  # counted from 1
    learning_rate: Number  # of the epoch's last step
    train_loss: Number  # mean over the epoch's steps, measured during training, with augmentation and dropout
    train_accuracy: Fraction
    validation_loss: Number  # on the test images if the recipe validates on them; so `validation_accuracy`
    validation_accuracy: Fraction
    train_seconds: Seconds  # duration of the training steps alone
    validation_seconds: Seconds
    images_per_second: Number  # number of training images divided by `train_seconds`


class History(BaseModel, frozen=True):
    """Contents of metrics.csv."""

    epochs: Annotated[tuple[EpochRow, ...], Field(min_length=1)]


class Progress(BaseModel, frozen=True, allow_inf_nan=False):
    """Progress of a running training, as progress.json holds it."""

    epoch: int | None = None  # the epoch being trained, counted from 1
    images_per_second: float | None = None
    seconds_left: float | None = None  # estimated time to the end of the training


class Rate(BaseModel, frozen=True):
    """Speed of a training on the processor, measured in one precision with one number of threads."""

    precision: Annotated[str, Field(pattern="^(fp32|bf16|fp16)$")]
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)]
    images_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Computation(BaseModel, frozen=True):
    """How the processor computes a training from one of its steps on, and what was measured to choose that."""

    epoch: Count = 0  # epoch and step are counted from 0
    step: Count = 0
    precision: Annotated[str, Field(pattern="^(fp32|bf16|fp16)$")]
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)]
    measured: tuple[Rate, ...] = ()

    @property
    def images_per_second(self) -> float:
        """The speed that was measured for the chosen precision and threads; 0 if none was."""
        chosen = (self.precision, self.threads)
        rates = (rate.images_per_second for rate in self.measured if (rate.precision, rate.threads) == chosen)
        return next(rates, 0.0)


class DataRecord(BaseModel, frozen=True):
    """Data set of a run: its origin and the number of images of each part."""

    name: str
    source: str = ""
    path: str = ""
    sha256: str  # of class names, images and labels
    classes: tuple[str, ...]  # names after dropping and merging, in the order of the labels
    train: int
    validation: int
    test: int
    majority: float = 0.0  # test accuracy of always predicting the most frequent class, in [0, 1]
    skipped: tuple[str, ...] = ()  # damaged image files that were left out, each with the reason


class TrainedOn(BaseModel, frozen=True):
    """The images that weights were trained on: a data set, without those that its split kept for validation."""

    dataset: str = ""
    sha256: str = ""  # of the data set before classes are dropped and merged; empty if unknown
    seed: int = 0
    train_on: str = "split"
    validation_fraction: float = 0.1
    drop: tuple[str, ...] = ()
    merge: dict[str, str] = {}
    labels: dict[str, str] = {}


class Environment(BaseModel, frozen=True, extra="allow"):
    """Versions and machine that affect results and speed. Library versions are extra keys."""

    __pydantic_extra__: dict[str, str | int | None] = Field(init=False)

    device: str  # `cpu`, `cuda` or `cuda:N`
    threads: int = 1  # that PyTorch uses on the processor
    processor: str = ""
    gpu: str | None = None
    processes: int = 1  # that train together

    def items(self) -> dict[str, str | int | None]:
        """Return all entries by name, including library versions, as run.json stores them."""
        return self.model_dump(exclude_unset=True)


class Results(BaseModel, frozen=True, allow_inf_nan=False):
    """Metrics of a finished run. Accuracies are fractions of 1, losses are in nats, times in seconds."""

    epochs: Count  # that were trained
    stopped_early: bool = False
    stopped_by_callback: bool = False  # so that this is no repetition of a training that went on
    kept_epoch: Count  # whose weights were kept and tested, counted from 1; 0 for those of `start_from`
    validation_accuracy: Fraction
    validation_loss: Number
    test_accuracy: Fraction
    test_loss: Number
    test_top5_accuracy: Fraction | None = None  # with more than 20 classes
    test_coarse_accuracy: Fraction | None = None  # of superclasses, if the data set has some
    calibration_error: Fraction = 0.0
    temperature: Annotated[float, Field(ge=0.01, le=100)] | None = (
        None  # divisor of the logits, fitted on the validation images; None without them
    )
    scaled_calibration_error: Fraction | None = None  # of the logits divided by `temperature`
    tta: bool = False  # True if the test used test-time augmentation
    train_seconds: Seconds
    validation_seconds: Seconds = 0.0
    images_per_second: Number


class RunRecord(BaseModel, frozen=True, populate_by_name=True):
    """Contents of run.json."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1  # version of the file format
    name: str = ""
    status: Literal["running", "finished", "interrupted", "failed", "pruned"] = "running"
    reason: str = ""  # why the run ended before it finished; empty otherwise
    recipe: Recipe
    data: DataRecord
    seed: int
    protocol: str  # one sentence that says how the metrics came about
    environment: Environment
    command: str = ""  # for readers to repeat; empty if the run was started from Python
    created: str = ""  # time in UTC, in ISO 8601
    finished: str | None = None
    results: Annotated[Results | None, BeforeValidator(lambda value: value or None)] = None  # until the run is finished
    track: tuple[str, ...] = ()  # names of the trackers that log this run
    checkpoint_every: str = CHECKPOINT_EVERY
    computed: tuple[Computation, ...] = ()  # in the order of their steps; empty where nothing was measured
    ancestors: tuple[TrainedOn, ...] = ()  # earlier trainings of the weights that the run started from
    origins: dict[str, str] = {}  # SHA-256 of each file that the run depends on but does not contain, by recipe key
    sums: dict[str, str] = {}  # SHA-256 of each file that holds results of the finished run, by name, and of `results`
    identity: str = ""  # `find_identity` when run.json was written; empty in older runs

    def find_identity(self) -> str:
        """Return the SHA-256 of what a checkpoint and results belong to: the recipe without paths, seed and data."""
        recipe = self.recipe.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_IDENTITY)
        place = [Path(self.recipe.model).name, self.recipe.seed, self.seed, self.data.sha256]
        return hashlib.sha256(json.dumps([recipe, *place], sort_keys=True).encode()).hexdigest()

    def results_sum(self) -> str:
        """Return the SHA-256 of the results, of those values that run.json has."""
        results = self.results.model_dump(mode="json", exclude_unset=True) if self.results else {}
        return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the record as run.json stores it."""
        fields = self.model_dump(mode="json", by_alias=True)
        return fields | {"environment": self.environment.items(), "results": fields["results"] or {}}
