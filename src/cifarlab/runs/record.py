"""What run.json holds, as frozen values that are checked when they are read.

Every other module asks these types instead of dictionaries. Values that later versions added have defaults, so that
records of older runs still open.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cifarlab.errors import UsageError, one_line
from cifarlab.recipes import Recipe

SCHEMA = 1  # version of the file format
CHECKPOINT_EVERY = "5m"  # time between checkpoints within an epoch, where the run does not say

Status = Literal["running", "finished", "interrupted", "failed", "pruned"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class DataRecord(_Frozen):
    """The data set of a run: where it came from and how many images each part has."""

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
    """Accuracy on the test images of always answering the most frequent class, in [0, 1]."""
    skipped: tuple[str, ...] = ()
    """Damaged files that were left out, each with the reason."""


class Environment(BaseModel):
    """Versions and machine, as far as they bear on results and speed. Library versions are extra keys."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, str | int | None] = Field(init=False)

    device: str
    """`cpu`, `cuda` or `cuda:N`."""
    threads: int = 1
    """Threads that PyTorch computes with on the processor."""
    processor: str = ""
    gpu: str | None = None
    processes: int = 1
    """Number of processes that train together."""

    def items(self) -> dict[str, str | int | None]:
        """Return all entries by name, library versions included, as run.json stores them."""
        return self.model_dump(exclude_unset=True)


class Results(_Frozen):
    """Metrics of a finished run. Accuracies are fractions of 1, losses are in nats, times in seconds."""

    epochs: int
    """Number of epochs that were trained."""
    stopped_early: bool = False
    kept_epoch: int
    """The epoch whose weights were kept and tested, counted from 1."""
    validation_accuracy: float
    validation_loss: float
    test_accuracy: float
    test_loss: float
    calibration_error: float = 0.0
    temperature: float | None = None
    """Divisor of the logits, fitted on the validation images; None where there were none of their own."""
    scaled_calibration_error: float | None = None
    """Calibration error at that temperature."""
    tta: bool = False
    """True if the test used test-time augmentation."""
    train_seconds: float
    validation_seconds: float = 0.0
    images_per_second: float


class RunRecord(_Frozen):
    """The whole of run.json."""

    schema_version: Annotated[int, Field(alias="schema")] = SCHEMA
    name: str = ""
    status: Status
    reason: str
    """Why the run ended if it did not finish; else empty."""
    recipe: Recipe
    data: DataRecord
    seed: int
    protocol: str
    """How the metrics came about, in one sentence."""
    environment: Environment
    command: str = ""
    """The command line, for a reader to repeat; empty if the run was started from Python."""
    created: str
    """UTC time in ISO 8601."""
    finished: str | None = None
    results: Results | None
    """None until the run is finished."""
    track: tuple[str, ...] = ()
    """Names of the trackers that log this run."""
    checkpoint_every: str = CHECKPOINT_EVERY
    origins: dict[str, str] = {}
    """SHA-256 sums of files that the run depends on but does not contain, by recipe key."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as run.json stores it."""
        fields = self.model_dump(mode="json", by_alias=True)
        fields["environment"] = self.environment.items()
        return fields | {"results": fields["results"] or {}}


def parse_record(fields: object, path: Path) -> RunRecord:
    """Check the parsed JSON of a run.json and return it as a record.

    Args:
        fields: the document.
        path: of the file, for error messages.

    Raises:
        UsageError: the file belongs to another schema, a value is missing, or a value has the wrong type.
    """
    if not isinstance(fields, Mapping) or fields.get("schema") != SCHEMA:
        raise UsageError(f"{path.parent}: run.json is not of schema {SCHEMA}")
    try:
        return RunRecord.model_validate(
            {**fields, "results": fields["results"] or None} if "results" in fields else fields
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise UsageError(f"{path} is damaged: it has no {key!r}") from error
        raise UsageError(f"{path} is damaged: {key}: {one_line(first['msg'])}") from error
