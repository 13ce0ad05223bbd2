"""The recipe: every setting of a training in one frozen value, with its allowed values and its default."""

import itertools
import math
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from cifarlab.errors import unknown, validated
from cifarlab.recipes.preprocessing import PREPROCESSING, Channels, Normalization, Preprocessing, Resize, Values

SMALLEST, LARGEST = 8, 512  # side of images in pixels
LARGEST_ZCA = 64  # pixels a side; the matrix has (3 x side x side) squared values

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=0, le=512)]
Share = Annotated[float, Field(gt=0, lt=1)]
MOST_THREADS = 1024


def _whole(number: float) -> float:
    """Return a whole number as an int, so that it is written without a point."""
    return int(number) if number.is_integer() else number


def _thread_count(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_THREADS):
        return value
    raise ValueError(f'threads should be "auto" or a whole number from 1 to {MOST_THREADS}, got {value!r}')


Epochs = Annotated[float, Field(gt=0, le=100_000), AfterValidator(_whole), PlainSerializer(lambda number: number)]
Threads = Annotated[int | Literal["auto"], BeforeValidator(_thread_count)]


# Keys that count only with some values of another key.
NEEDS = {
    "head_learning_rate": ("optimizer", ("muon",)),
    "bias_learning_rate": ("optimizer", ("muon",)),
    "momentum": ("optimizer", ("sgd", "muon")),
    "nesterov": ("optimizer", ("sgd",)),
    "decay": ("schedule", ("inverse-time",)),
    "milestones": ("schedule", ("step",)),
    "factor": ("schedule", ("step",)),
    "warmup": ("schedule", ("step", "cosine", "linear", "one-cycle")),
    "warmup_rate": ("schedule", ("step", "cosine", "linear", "one-cycle")),
    "augment.operations": ("augment.policy", ("randaugment",)),
    "augment.magnitude": ("augment.policy", ("randaugment",)),
}
FOR_ONE_NETWORK = ("model_options", "progressive_resizing")  # keys that another `model` drops


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Augment(_Table):
    """Random augmentation of the training images, drawn anew for every image in every epoch; 0 switches a part off."""

    flip: bool = False
    """Mirror each image left to right with a probability of one half."""
    alternate_flip: bool = False
    """Mirror a random half of the images in the first epoch, the other half in the second, and so on (Jordan 2024)."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift in each direction, as a fraction of the image's side; the border pixels are repeated."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation in each direction, in degrees; the border pixels are repeated."""
    crop: Pixels = 0
    """Pixels added on every side, as `border` says, before the image is cropped at random to its old size."""
    border: Literal["zero", "reflect"] = "zero"
    """The pixels that `crop` adds: zeros, or the image mirrored at its edge."""
    cutout: Pixels = 0
    """Side of a square set to zero at a random place, in pixels."""
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of random erasing (Zhong et al. 2017): a rectangle of 0.02 to 1/3 of the area is set to zero."""
    policy: Literal["none", "autoaugment", "randaugment", "trivialaugment"] = "none"
    """Operations on colours and places before all else: AutoAugment's for CIFAR-10 (Cubuk et al. 2018), RandAugment
    (Cubuk et al. 2019) or TrivialAugment, wide (Müller and Hutter 2021)."""
    operations: Annotated[int, Field(ge=1, le=10)] = 2
    """Number of operations of `policy = "randaugment"`."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of the operations of `policy = "randaugment"`, of which 30 is the highest."""
    brightness: NotNegative = 0.0
    """Colour jitter: brightness is scaled by a random factor from 1 - this to 1 + this, and never below 0."""
    contrast: NotNegative = 0.0
    """Colour jitter: contrast is scaled likewise."""
    saturation: NotNegative = 0.0
    """Colour jitter: saturation is scaled likewise."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Colour jitter: largest turn of the hue in each direction, as a part of the colour circle."""
    mixup: NotNegative = 0.0
    """MixUp (Zhang et al. 2017): images and labels are mixed in pairs; the shares are drawn from Beta(this, this)."""
    cutmix: NotNegative = 0.0
    """CutMix (Yun et al. 2019): a rectangle comes from another image, and so does its share of the label. With `mixup`,
    each batch is mixed in one of the two ways."""

    @property
    def mixes(self) -> bool:
        """True if the images of a batch are mixed with each other."""
        return bool(self.mixup or self.cutmix)

    @property
    def distorts(self) -> bool:
        """True if the bytes of the images are changed, before preprocessing."""
        return self.policy != "none" or bool(self.brightness or self.contrast or self.saturation or self.hue)


class Published(_Table):
    """A published result for this recipe."""

    epochs: int
    """Epochs of this recipe, an unfinished last one too, after which its accuracy is compared with this result."""
    accuracy: Fraction
    """Accuracy on the test images."""
    loss: float | None = None
    """Mean cross-entropy on the test images, in nats."""
    time: str = ""
    """Training time, as published."""
    note: str = ""
    """A remark for lists and reports."""
    source: str = ""
    """Where the result was published: authors and year, or a repository."""


class Recipe(_Table):
    """Network, data and settings of a training. Unknown keys are errors; the defaults keep the test set for the end."""

    name: str = "custom"
    """Name of the recipe in lists, reports and run names."""
    description: str = ""
    """One sentence for lists and reports."""

    model: str
    """Name of a registered network, or `FILE.py:NAME` for your own."""
    model_options: dict[str, bool | int | float | str] = {}
    """Keyword arguments of the network's function."""

    dataset: str = "cifar10"
    """Name of the data set: one of `cifarlab data list`, `folder:DIR`, `csv:FILE`, `hf:DIR` or `npz:FILE`."""
    size: Annotated[int, Field(ge=SMALLEST, le=LARGEST)] = 32
    """Side of the square images that the network sees, in pixels; images of another size are resized."""
    drop: tuple[str, ...] = ()
    """Classes to leave out of training, validation and test."""
    merge: dict[str, str] = {}
    """Classes to relabel as another class in training, validation and test: `{truck = "automobile"}`."""
    labels: dict[str, str] = {}
    """Corrected labels by the image's name: `{"train image 5" = "cat"}`. An empty label leaves the image out."""
    train_on: Literal["split", "all"] = "split"
    """`split` keeps `validation_fraction` of the training images for validation; `all` trains on all of them."""
    validate_on: Literal["validation", "test"] = "validation"
    """Images on which accuracy is measured after each epoch. `test` follows published results and is not honest."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of each class's training images that `train_on = "split"` keeps for validation."""
    normalize: Normalization = "standard"
    """Scaling of the pixels: `unit` to [0, 1], `symmetric` to [-1, 1], `standard` to mean 0 and deviation 1 a channel,
    `zca` contrast-normalised and ZCA-whitened, `raw` 0 to 255, for a network that scales them itself."""
    mean: Values = ()
    """Subtracted from the pixels: one number, or three in the order of `channels`. Pixels count from 0 to 1 with
    `normalize = "unit"`, from 0 to 255 with `"raw"`, and with `"standard"` the numbers' size tells which."""
    std: Values = ()
    """The pixels are divided by this after `mean` is subtracted: numbers as for `mean`."""
    channels: Channels = "rgb"
    """Order of the colours: `bgr` as OpenCV reads pictures; `gray` puts the brightness into all three channels,
    `mono` into the only channel of a network that takes one. Every network of cifarlab takes three or one."""
    resize: Resize = "crop"
    """How a picture becomes square: `crop` takes its central square, `stretch` distorts it, `pad` adds black bars."""
    augment: Augment = Augment()
    """Random augmentation of the training images."""
    input_dropout: Fraction = 0.0
    """Fraction of the network's input values set to zero during training; the remaining values are scaled up."""

    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weights each image's loss by the inverse frequency of its class in the training set."""
    start_from: str = ""
    """A run, weights file or `pretrained:NAME` to fine-tune. It sets network, image size and preprocessing; for other
    classes the output layer is new. The protocol says so if the weights have seen this run's validation images."""
    freeze: Annotated[int, Field(ge=0)] = 0
    """Number of layers with weights, counted from the input, that are not trained."""
    freeze_statistics: bool = False
    """Keep the means and variances of batch normalisation that the weights of `start_from` have."""

    epochs: Epochs = 10
    """Passes over the training images; the last one ends early if this is no whole number."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Images in a step, over all processes together."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the initial weights, the split, the order of the images, augmentation and dropout."""
    skip_easy: Annotated[float, Field(ge=0, le=0.8)] = 0.0
    """Fraction of the training images left out of every epoch except the first and the last, drawn at random from the
    images whose last loss was below the mean. InfoBatch (Qin et al. 2024) also scales up the losses of the easy images
    that stay, and skips none in the last eighth of the training; this does not."""
    freeze_first: Fraction = 0.0
    """Fraction of the training after which the first trained layer is frozen, to save its backward pass (Brock et al.
    2017); 0 never freezes it."""
    progressive_resizing: tuple[tuple[Share, Share], ...] = ()
    """Train on smaller images at first, which is faster (Howard 2018): `[[0.75, 0.35], [0.875, 0.65]]` resizes the
    augmented images to three quarters of `size` until 0.35 of the training, and to seven eighths until 0.65. Another
    `model` than the recipe's drops this, because many networks take one size only."""
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    """Optimizer; `muon` is for networks with many convolutions (Jordan 2024)."""
    learning_rate: Positive = 0.1
    """Highest learning rate of the schedule; with `muon`, of convolutions and hidden layers."""
    head_learning_rate: Positive = 0.05
    """Highest learning rate of the output layer; `muon` only."""
    bias_learning_rate: Positive = 0.05
    """Highest learning rate of biases and normalisation layers; `muon` only."""
    momentum: Fraction = 0.9
    """Momentum; `sgd` and `muon` only."""
    nesterov: bool = False
    """Nesterov momentum; `sgd` only."""
    weight_decay: NotNegative = 0.0
    """Weight decay; decoupled from the gradient with `adamw` and `muon`. With `muon`, a step at the peak takes this
    share of output layer, biases and normalisation away, whatever their learning rates; kernels are not decayed."""
    schedule: Literal["constant", "inverse-time", "step", "cosine", "linear", "one-cycle"] = "constant"
    """Course of the learning rate over the training."""
    decay: NotNegative = 0.0
    """With `schedule = "inverse-time"`, the learning rate is divided by 1 + decay x steps done."""
    milestones: tuple[Epochs, ...] = ()
    """With `schedule = "step"`, the learning rate is multiplied by `factor` after each of these epochs, which may be
    fractions."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of the learning rate at each of the `milestones`."""
    warmup: Fraction = 0.0
    """Fraction of the training during which the learning rate rises from 0; not with `constant` and `inverse-time`."""
    warmup_rate: NotNegative = 0.0
    """Constant learning rate during the `warmup`; 0 lets it rise instead."""
    label_smoothing: Fraction = 0.0
    """Share of each label that is spread evenly over all classes."""
    gradient_clip: NotNegative = 0.0
    """Largest norm of the gradient over all weights together; 0 does not clip."""
    ema: Fraction = 0.0
    """Decay per step of an exponential moving average of the weights, which is validated and saved; 0 keeps none."""
    swa: Fraction = 0.0
    """Stochastic weight averaging (Izmailov et al. 2018): from this fraction of the training on, the mean of the
    weights after each epoch is validated and saved; 0 keeps none. It goes with a learning rate that stays high."""
    sam: NotNegative = 0.0
    """Radius of sharpness-aware minimisation (Foret et al. 2020): each step takes the gradient where the loss this near
    is highest, which doubles its time; 0 switches it off."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of forward and backward passes. On a processor `auto` measures whether fp32 or bf16 is faster; for
    trainings of seconds, and on a GPU, it is bf16 where the device computes in bf16 itself, else fp16 on a GPU and fp32
    on a processor. Weights, their averages, batch statistics and losses are always fp32. With fp16 the loss is scaled,
    so that small gradients do not vanish."""
    threads: Threads = "auto"
    """Threads that compute on a processor. `auto` measures whether one, half of the cores or all are fastest; trainings
    of seconds take all. `OMP_NUM_THREADS` is the most that `auto` takes."""
    deterministic: bool = False
    """Allow only operations that give the same bits every time. On the CPU all do; on a GPU this costs speed."""
    compile: bool = False
    """Compile the network with `torch.compile`, which needs a C++ compiler. Worth trying on a GPU."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many epochs without a better validation accuracy; 0 never stops early."""
    time_budget: NotNegative = 0.0
    """Stop after this many minutes of training; 0 sets no limit. `cosine`, `linear` and `one-cycle` end in time."""
    keep: Literal["best", "last", "best-of-few"] = "best"
    """The epoch whose weights are tested: the best by validation accuracy and then by loss, or the last. `best` too is
    the last with fewer than 100 validation images, where the best is mostly luck, if the schedule falls to 0 and
    `patience` is 0; `best-of-few` never is. Weights of `start_from` for the same classes are epoch 0; unless `keep` is
    `last`, they are kept if training makes them no better."""
    tta: bool = False
    """Test-time augmentation in the final test: the mean over six views of each image."""

    published: tuple[Published, ...] = ()
    """Published results of this recipe."""

    @model_validator(mode="after")
    def _check_together(self) -> "Recipe":
        if self.train_on == "all" and self.validate_on == "validation":
            raise ValueError('train_on = "all" leaves nothing to validate on: set validate_on = "test" too')
        if self.validate_on == "test" and (self.keep != "last" or self.patience):
            wrong = f'keep = "{self.keep}" or patience with validate_on = "test" would choose by the test set'
            raise ValueError(f'{wrong}: set keep = "last", patience = 0')
        if self.schedule == "step" and not self.milestones:
            raise ValueError('schedule = "step" needs milestones, a list of epochs')
        if self.warmup_rate and not self.warmup:
            raise ValueError("warmup_rate needs a warmup above 0")
        _ = self.preprocessing  # checks mean and std
        if self.normalize == "zca" and self.size > LARGEST_ZCA:
            raise ValueError(f'normalize = "zca" needs a size of at most {LARGEST_ZCA}, got {self.size}')
        if self.augment.crop >= self.size:
            limit = f"the size of {self.size} pixels"
            raise ValueError(f"augment.crop should be less than {limit}, got {self.augment.crop}")
        if self.freeze_statistics and not self.start_from:
            raise ValueError("freeze_statistics needs start_from: fresh weights have no statistics to keep")
        ends = [end for _, end in self.progressive_resizing]
        if any(end >= later for end, later in itertools.pairwise(ends)):
            raise ValueError(f"progressive_resizing needs ends that rise, got {ends}")
        if self.ema and self.swa:
            raise ValueError("ema and swa both average the weights: set one of them")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    @property
    def epoch_count(self) -> int:
        """Number of epochs, with an unfinished last one."""
        return math.ceil(self.epochs)

    def size_at(self, progress: float) -> int:
        """Return the side of the images that the network trains on, in pixels, after a share of the training."""
        return next((size for size, end in self.smaller_sizes if progress < end), self.size)

    @property
    def smaller_sizes(self) -> tuple[tuple[int, float], ...]:
        """Sides of progressive resizing's images in pixels, each with the share of the training at which it ends."""
        return tuple((max(1, round(share * self.size)), end) for share, end in self.progressive_resizing)

    @property
    def preprocessing(self) -> Preprocessing:
        """The settings of preprocessing alone."""
        return Preprocessing(*(getattr(self, key) for key in PREPROCESSING))

    def without_effect(self, keys: Iterable[str] = ()) -> list[str]:
        """Return a sentence for each key that does nothing in this recipe: of `keys`, or of those it sets itself."""
        wanted = set(keys) or {key for key in NEEDS if attrgetter(key)(self) != _default(key)}
        return [
            f"{key} has no effect with {other} = {value}"
            for key, (other, values) in NEEDS.items()
            if key in wanted and (value := attrgetter(other)(self)) not in values
        ]

    def protocol(self, *, own_validation: bool = False) -> str:
        """Return one sentence for reports on the images that a run is trained, validated and tested on."""
        corrected = f"; {len(self.labels):,} labels checked or corrected by hand" if self.labels else ""
        tested = "; test-time augmentation: a mean over six views of each test image" if self.tta else ""
        views = corrected + tested
        if self.validate_on == "test":
            source = "all training images" if self.train_on == "all" else "the training split"
            return f"published protocol: trained on {source}, and the test set was looked at after every epoch{views}"
        fraction = f"{self.validation_fraction:.0%} of the training images, stratified, chosen by the seed,"
        part = "the data set's own validation images" if own_validation else fraction
        return f"honest protocol: {part} for validation; the test set touched once, at the end{views}"

    def changed(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return a copy of this recipe with other values.

        Args:
            changes: values by key; a key of a table is written with a dot, as in `augment.flip`. A change of `model`
                drops what is for the old network, `model_options` and `progressive_resizing`, and other networks or
                data have no published results.

        Raises:
            UsageError: a key is unknown or a value is not allowed.
        """
        fields: dict[str, Any] = self.model_dump()
        if changes.get("model", self.model) != self.model:
            fields |= {key: Recipe.model_fields[key].default for key in FOR_ONE_NETWORK}
        tasks = {key: changes.get(key, fields[key]) for key in ("model", "dataset", "drop", "merge", "labels")}
        if tasks != {key: fields[key] for key in tasks}:
            fields["published"] = ()
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
    """Return every key that a recipe may have; keys of the table `augment` are written with a dot."""
    outer = [key for key in Recipe.model_fields if key != "augment"]
    return outer + [f"augment.{key}" for key in Augment.model_fields]


def _default(key: str) -> Any:
    table, _, inner = key.rpartition(".")
    fields = Augment.model_fields if table else Recipe.model_fields
    return fields[inner].default


def check(fields: Mapping[str, Any], context: str) -> Recipe:
    """Return the recipe with these values by key. An error begins with `context`, such as `recipe 'mine'`."""
    return validated(Recipe, fields, context, keys())
