"""Types of the values in a run folder: run.json, a row of metrics.csv, and progress.json.

They are frozen, and checked when they are read. Values that later versions added have defaults, so that records of
older runs still open.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cifarlab.errors import UsageError, validated
from cifarlab.recipes import Recipe

SCHEMA = 1  # version of the file format
CHECKPOINT_EVERY = "5m"  # default time between checkpoints within an epoch

Status = Literal["running", "finished", "interrupted", "failed", "pruned"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


@dataclass(frozen=True)
class EpochRow:
    """Metrics of one epoch, a row of metrics.csv. Losses are in nats, accuracies are fractions of 1."""

    epoch: int
    """Number of the epoch, counted from 1."""
    learning_rate: float
    """Learning rate of the epoch's last step."""
    train_loss: float
    """Mean loss over the epoch's steps, measured during training, with augmentation and dropout."""
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    train_seconds: float
    """Duration of the training steps alone."""
    validation_seconds: float
    images_per_second: float
    """Number of training images divided by `train_seconds`."""


class Progress(_Frozen):
    """Progress of a running training, as progress.json holds it."""

    epoch: int | None = None
    """Number of the epoch being trained, counted from 1."""
    images_per_second: float | None = None
    seconds_left: float | None = None
    """Estimated time to the end of the training."""


class DataRecord(_Frozen):
    """Data set of a run: its origin and the number of images of each part."""

    name: str
    source: str = ""
    path: str = ""
    sha256: str
    """Checksum of class names, images and labels."""
    classes: tuple[str, ...]
    """Class names after dropping and merging, in the order of the labels."""
    train: int
    validation: int
    test: int
    majority: float = 0.0
    """Test accuracy of always predicting the most frequent class, in [0, 1]."""
    skipped: tuple[str, ...] = ()
    """Damaged image files that were left out, each with the reason."""


class Environment(BaseModel):
    """Versions and machine that affect results and speed. Library versions are extra keys."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, str | int | None] = Field(init=False)

    device: str
    """`cpu`, `cuda` or `cuda:N`."""
    threads: int = 1
    """Number of threads that PyTorch uses on the processor."""
    processor: str = ""
    gpu: str | None = None
    processes: int = 1
    """Number of processes that train together."""

    def items(self) -> dict[str, str | int | None]:
        """Return all entries by name, including library versions, as run.json stores them."""
        return self.model_dump(exclude_unset=True)


class Results(_Frozen):
    """Metrics of a finished run. Accuracies are fractions of 1, losses are in nats, times in seconds."""

    epochs: int
    """Number of epochs that were trained."""
    stopped_early: bool = False
    kept_epoch: int
    """Epoch whose weights were kept and tested, counted from 1."""
    validation_accuracy: float
    validation_loss: float
    test_accuracy: float
    test_loss: float
    calibration_error: float = 0.0
    temperature: float | None = None
    """Divisor of the logits, fitted on the validation images; None if the run has no validation images."""
    scaled_calibration_error: float | None = None
    """Calibration error of the logits divided by `temperature`."""
    tta: bool = False
    """True if the test used test-time augmentation."""
    train_seconds: float
    validation_seconds: float = 0.0
    images_per_second: float


class RunRecord(_Frozen):
    """Contents of run.json."""

    schema_version: Annotated[int, Field(alias="schema")] = SCHEMA
    name: str = ""
    status: Status
    reason: str
    """Reason why the run ended before it finished; empty otherwise."""
    recipe: Recipe
    data: DataRecord
    seed: int
    protocol: str
    """One sentence that says how the metrics came about."""
    environment: Environment
    command: str = ""
    """Command line, for readers to repeat; empty if the run was started from Python."""
    created: str
    """Time of creation in UTC, in ISO 8601."""
    finished: str | None = None
    results: Results | None
    """None until the run is finished."""
    track: tuple[str, ...] = ()
    """Names of the trackers that log this run."""
    checkpoint_every: str = CHECKPOINT_EVERY
    origins: dict[str, str] = {}
    """SHA-256 of each file that the run depends on but does not contain, by recipe key."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as run.json stores it."""
        fields = self.model_dump(mode="json", by_alias=True)
        fields["environment"] = self.environment.items()
        return fields | {"results": fields["results"] or {}}


def parse_record(document: object, path: Path) -> RunRecord:
    """Check the parsed JSON of a run.json and return it as a record.

    Args:
        document: the parsed JSON.
        path: path of the file, for error messages.

    Raises:
        UsageError: the file has another schema, a value is missing, or a value has the wrong type.
    """
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        raise UsageError(f"{path} has another schema than {SCHEMA}: another version of cifarlab wrote it")
    if "results" in document:
        document = {**document, "results": document["results"] or None}
    return validated(RunRecord, document, f"{path} is damaged")
