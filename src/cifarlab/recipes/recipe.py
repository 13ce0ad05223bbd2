"""A recipe: everything that decides a training, in one frozen value that a TOML file holds.

Reads, checks and changes recipes; knows no torch, so that listing and checking cost nothing. The TOML files under
this folder are the built-in ones; a recipe's name is its path there without the ending: `keras6`, `relabel/drop-truck`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cifarlab.errors import UsageError, one_line, unknown

Normalization = Literal["unit", "symmetric", "standard", "zca", "raw"]
SMALLEST, LARGEST = 8, 512  # side of images in pixels
LARGEST_ZCA = 64  # pixels a side; the matrix has (3 x side x side) squared values

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=0, le=512)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Augment(_Table):
    """Random changes of the training images, drawn anew for every image in every epoch; off where 0."""

    flip: bool = False
    """Mirror each image or not, left to right, with equal chances."""
    alternate_flip: bool = False
    """Mirror a random half of the images in the first epoch, the others in the second, and so on (Jordan 2024)."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift each way, as a fraction of the image's side; the border is repeated."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation each way, in degrees; the border is repeated."""
    crop: Pixels = 0
    """Pixels added on every side, as `border` says, before a random cut of the old size."""
    border: Literal["zero", "reflect"] = "zero"
    """What `crop` adds: zeros, or the image mirrored at its edge."""
    cutout: Pixels = 0
    """Side of a random square that is set to zero, in pixels."""

    def of_a_batch(self) -> dict[str, Any]:
        """What `batches.augment` takes; `alternate_flip` depends on the epoch and is done where batches are cut."""
        return self.model_dump(exclude={"alternate_flip"})


class Published(_Table):
    """A figure that somebody published for this recipe."""

    epochs: int
    accuracy: Fraction
    loss: float | None = None
    time: str = ""
    note: str = ""


class Recipe(_Table):
    """What to train, on what, and how. Unknown keys are errors. The defaults are those of an honest, plain training."""

    name: str = "custom"
    description: str = ""

    model: str
    """A network's name, or `FILE.py:NAME` for one's own."""
    model_options: dict[str, bool | int | float | str] = {}
    """Passed to the network's function by name."""

    dataset: str = "cifar10"
    """`cifar10`, `digits`, `folder:DIR`, `csv:FILE`, `hf:DIR` or `npz:FILE`."""
    size: Annotated[int, Field(ge=SMALLEST, le=LARGEST)] = 32
    """Side of the square images that the network sees, in pixels; others are resized."""
    drop: tuple[str, ...] = ()
    """Classes to leave out of training, validation and test."""
    merge: dict[str, str] = {}
    """Classes to relabel as another one, everywhere: `{truck = "automobile"}`."""
    train_on: Literal["split", "all"] = "split"
    """`split` keeps `validation_fraction` of the training images for validation; `all` trains on every one."""
    validate_on: Literal["validation", "test"] = "validation"
    """Where accuracy is measured after each epoch. `test` is how the published figures were made, and not honest."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    normalize: Normalization = "standard"
    """Pixels to [0, 1], to [-1, 1], to mean 0 and deviation 1 per channel, contrast-normalised and ZCA-whitened, or as
    they are, 0 to 255, for a network that scales them itself."""
    augment: Augment = Augment()
    input_dropout: Fraction = 0.0
    """Fraction of the network's input values set to zero while training; the others are scaled up."""

    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: an image's loss counts the more, the fewer training images its class has."""
    start_from: str = ""
    """A target whose weights the training starts from: fine-tuning. Network, size and normalisation are then its own;
    for other classes the output layer is new."""
    freeze: Annotated[int, Field(ge=0)] = 0
    """So many of the first layers with weights keep what they start with."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 128
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    skip_easy: Annotated[float, Field(ge=0, le=0.8)] = 0.0
    """Fraction of the training images left out of every epoch but the first and the last, drawn at random from those
    whose last loss was below the mean (Qin et al. 2024, InfoBatch)."""
    freeze_first: Fraction = 0.0
    """Share of the training after which the first layer that trains stops, to spare its backward pass; 0: never.

    After Brock et al. 2017.
    """
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    learning_rate: Positive = 0.1
    """The highest; of `muon`, that of convolutions and hidden layers."""
    head_learning_rate: Positive = 0.05
    """Of `muon`: the highest of the output layer."""
    bias_learning_rate: Positive = 0.05
    """Of `muon`: the highest of biases and of normalisations."""
    momentum: Fraction = 0.9
    """Of `sgd` and `muon`."""
    nesterov: bool = False
    """Of `sgd`."""
    weight_decay: NotNegative = 0.0
    schedule: Literal["constant", "inverse-time", "step", "cosine", "linear", "one-cycle"] = "constant"
    decay: NotNegative = 0.0
    """Of `inverse-time`: the learning rate is divided by 1 + decay x steps done."""
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Of `step`: the learning rate is multiplied by `factor` after each of these epochs."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of `step`."""
    warmup: Fraction = 0.0
    """Of `cosine`, `linear` and `one-cycle`: fraction of the training in which the learning rate rises from 0."""
    label_smoothing: Fraction = 0.0
    gradient_clip: NotNegative = 0.0
    """Largest norm of the gradient of all weights together; 0 does not clip."""
    ema: Fraction = 0.0
    """Decay per step of an exponential moving average of the weights, which is then what is validated and kept."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of forward and backward passes; `auto` takes bf16 where the device computes in it, else fp16 on a GPU and fp32 on
    a processor. Weights, their averages, statistics of batch normalisation and losses are fp32 always; in fp16 the loss
    is scaled, so that small gradients do not vanish."""
    deterministic: bool = False
    """Only operations that give the same bits every time, or an error. On the CPU all do; on a GPU it costs speed."""
    compile: bool = False
    """Compile the network with `torch.compile`, which needs a C++ compiler. Worth trying on a GPU."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many epochs without a better validation accuracy; 0 never stops early."""
    time_budget: NotNegative = 0.0
    """Stop after this many minutes of training; 0 has no limit."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights are tested: the best by validation accuracy, or the last."""
    tta: bool = False
    """Test-time augmentation in the final test: a mean over six views of each image."""

    published: tuple[Published, ...] = ()

    @model_validator(mode="after")
    def _check_together(self) -> Recipe:
        if self.train_on == "all" and self.validate_on == "validation":
            raise ValueError('train_on = "all" leaves nothing to validate on: set validate_on = "test" too')
        if self.validate_on == "test" and (self.keep == "best" or self.patience):
            chooser = 'keep = "best"' if self.keep == "best" else f"patience = {self.patience}"
            raise ValueError(
                f'{chooser} with validate_on = "test" would choose by the test set: set keep = "last", patience = 0'
            )
        if self.schedule == "step" and not self.milestones:
            raise ValueError('schedule = "step" needs milestones, a list of epochs')
        if self.normalize == "zca" and self.size > LARGEST_ZCA:
            raise ValueError(f'normalize = "zca" needs a size of at most {LARGEST_ZCA}, got {self.size}')
        if self.augment.crop >= self.size:
            raise ValueError(
                f"augment.crop should be less than the size of {self.size} pixels, got {self.augment.crop}"
            )
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    def protocol(self, *, own_validation: bool = False) -> str:
        """How the figures of this recipe come about, in one sentence for reports.

        Args:
            own_validation: whether the data set brings validation images of its own.
        """
        views = "; test-time augmentation: a mean over six views of each test image" if self.tta else ""
        if self.validate_on == "test":
            source = "all training images" if self.train_on == "all" else "the training split"
            return f"published protocol: trained on {source}, and the test set was looked at after every epoch{views}"
        part = f"{self.validation_fraction:.0%} of the training images, stratified, chosen by the seed,"
        if own_validation:
            part = "the data set's own validation images"
        return f"honest protocol: {part} for validation; the test set touched once, at the end{views}"

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """This recipe with other values.

        Args:
            changes: values by key; a key of a table is written with a dot, as in `augment.flip`. Another model starts
                without the options of the old one.

        Raises:
            UsageError: a key is unknown or a value is not allowed.
        """
        fields: dict[str, Any] = self.model_dump()
        if changes.get("model", self.model) != self.model:
            fields["model_options"] = {}
        for key, value in changes.items():
            table, _, inner = key.partition(".")
            if not inner:
                fields[table] = value
            elif isinstance(fields.get(table), dict):
                fields[table] = {**fields[table], inner: value}
            else:
                raise unknown("key", key, keys())
        return check(fields, f"recipe {self.name!r}")


def keys() -> list[str]:
    """Every key that a recipe may have, those of tables with a dot."""
    inner = [f"augment.{key}" for key in Augment.model_fields]
    return [key for key in Recipe.model_fields if key != "augment"] + inner


def check(fields: Mapping[str, Any], where: str) -> Recipe:
    """The recipe with these values.

    Raises:
        UsageError: one line with the key, what it may be, what it was, and the nearest right key.
    """
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{where}: {unknown('key', key, keys())}") from error
        if first["type"] == "missing":
            raise UsageError(f"{where}: the key {key!r} is missing") from error
        if first["type"] == "value_error":
            raise UsageError(f"{where}: {first['ctx']['error']}") from error
        reason = one_line(first["msg"]).replace("Input should be", "should be")
        raise UsageError(f"{where}: {key} {reason}, got {_cut(repr(first['input']))}") from error


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
