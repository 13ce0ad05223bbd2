"""The form that starts a training: its choices, its settings from the recipe's schema, and its command line."""

from functools import lru_cache
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, Field

from cifarlab.data.catalogue import DESCRIPTIONS, check_relabelling
from cifarlab.errors import UsageError, unknown
from cifarlab.recipes import load, names, parse_settings
from cifarlab.recipes.documentation import docstrings
from cifarlab.recipes.loading import toml_value
from cifarlab.recipes.recipe import Augment, Recipe
from cifarlab.runs.listing import check_plain_name
from cifarlab.training.preparation import choose_recipe

# Keys of the recipe that the form offers, beside data set, classes and seed.
SETTINGS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "optimizer",
    "schedule",
    "weight_decay",
    "label_smoothing",
    "augment.flip",
    "augment.shift",
    "augment.rotation",
    "augment.crop",
    "augment.cutout",
    "class_weights",
    "patience",
    "tta",
)
MOST_CLASSES = 150  # that a form drops or merges; the server reads addresses of 64 kB
_Word = Annotated[str, Field(max_length=150)]
Words = Annotated[list[_Word], Field(max_length=MOST_CLASSES)]


class Form(BaseModel, extra="forbid"):
    """The values of the form. Like the command line, it leaves out what the recipe says already."""

    recipe: Annotated[str, Field(max_length=100)] = ""
    """Name of a built-in recipe; empty lets cifarlab choose one that suits the data."""
    data: Annotated[str, Field(max_length=1_000)] = ""
    """Name of a data set; empty means the recipe's."""
    drop: Words = []
    """Classes to leave out."""
    merge: Words = []
    """FROM=INTO for every class that gets the label of another."""
    minutes: Annotated[float | None, Field(ge=0.01, le=100_000)] = None
    """Train as many epochs as fit into this time."""
    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    """Seed of every random choice."""
    set: Annotated[list[_Word], Field(max_length=2 * len(SETTINGS))] = []
    """KEY=VALUE for every setting that differs from the recipe's."""
    name: Annotated[str, Field(max_length=100)] = ""
    """Name of the run; empty lets cifarlab choose one."""


TrainingForm = Annotated[Form, Query()]


class Setting(BaseModel, frozen=True):
    """A setting of the form, as the recipe's schema describes it."""

    key: str
    meaning: str
    type: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    limits: str = ""


class RecipeChoice(BaseModel, frozen=True):
    """A built-in recipe, with its values of the form's settings."""

    name: str
    description: str
    model: str
    dataset: str
    drop: tuple[str, ...]
    merge: dict[str, str]
    seed: int
    values: dict[str, bool | int | float | str]


class Choices(BaseModel, frozen=True):
    """Everything that the form offers. Data sets have the names of their classes."""

    recipes: tuple[RecipeChoice, ...]
    settings: tuple[Setting, ...]
    data: dict[str, tuple[str, ...]]


def form_choices(own_data: dict[str, tuple[str, ...]]) -> Choices:
    """Return what the form offers, with the data sets that were made on the board."""
    published = {name: data.classes for name, data in DESCRIPTIONS.items() if data.train}
    return Choices(recipes=_recipes(), settings=_settings(), data=own_data | published)


def arguments(form: Form, own_data: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the arguments of `cifarlab train` for a form, after checking every value.

    Only built-in recipes, data sets that the form offers and the settings that it offers are allowed, so that no other
    file can be named from a browser.
    """
    if form.recipe and form.recipe not in names():
        raise unknown("recipe", form.recipe, names())
    offered = [*own_data, *(name for name, data in DESCRIPTIONS.items() if data.train)]
    if form.data and form.data not in offered:
        raise unknown("data set", form.data, offered)
    if not form.recipe and not form.data:
        raise UsageError("choose a recipe, a data set or both")
    settings = parse_settings(form.set)
    for key in settings:
        if key not in SETTINGS:
            raise UsageError(f"the form has no setting {key!r}; it may be {', '.join(SETTINGS)}")
    if form.minutes is not None and "epochs" in settings:
        raise UsageError("choose either epochs or minutes, not both")
    keys = {"dataset": form.data or None, "seed": form.seed}
    changes = settings | {key: value for key, value in keys.items() if value is not None}
    recipe = (load(form.recipe) if form.recipe else choose_recipe(changes)).changed(changes)
    merge = dict(recipe.merge)
    for text in form.merge:
        origin, _, into = text.partition("=")
        if not origin or not into:
            raise UsageError(f"merge must be FROM=INTO, such as truck=automobile, got {text!r}")
        merge[origin] = into
    recipe = recipe.changed({"drop": (*recipe.drop, *form.drop), "merge": merge})
    check_relabelling(recipe.dataset, recipe.drop, recipe.merge)

    if form.name:
        check_plain_name(form.name)
    options = [("--data", form.data)] if form.data else []
    options += [("--drop", name) for name in form.drop]
    options += [("--merge", pair) for pair in form.merge]
    options += [("--minutes", f"{form.minutes:g}")] if form.minutes is not None else []
    options += [("--set", f"{key}={_text(value)}") for key, value in settings.items()]
    options += [("--seed", str(form.seed))] if form.seed is not None else []
    options += [("--name", form.name)] if form.name else []
    words = [form.recipe] if form.recipe else []
    for option, value in options:  # a class may be called --trust, which must not become an option
        words += [f"{option}={value}"] if value.startswith("-") else [option, value]
    return words


def _text(value: Any) -> str:
    return value if isinstance(value, str) else toml_value(value)


def _value(recipe: Recipe, key: str) -> Any:
    table, _, inner = key.rpartition(".")
    return getattr(getattr(recipe, table) if table else recipe, inner)


@lru_cache(1)
def _recipes() -> tuple[RecipeChoice, ...]:
    recipes = [load(name) for name in names()]
    return tuple(
        RecipeChoice(
            name=recipe.name,
            description=recipe.description,
            model=recipe.model,
            dataset=recipe.dataset,
            drop=recipe.drop,
            merge=recipe.merge,
            seed=recipe.seed,
            values={key: _value(recipe, key) for key in SETTINGS},
        )
        for recipe in recipes
    )


@lru_cache(1)
def _settings() -> tuple[Setting, ...]:
    schema = Recipe.model_json_schema()
    properties = schema["properties"] | {
        f"augment.{key}": value for key, value in schema["$defs"]["Augment"]["properties"].items()
    }
    meanings = docstrings(Recipe) | {f"augment.{key}": text for key, text in docstrings(Augment).items()}
    return tuple(_setting(key, properties[key], meanings[key]) for key in SETTINGS)


def _setting(key: str, schema: dict[str, Any], meaning: str) -> Setting:
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    limits = ", ".join(f"{text} {schema[name]:,}" for name, text in words.items() if name in schema)
    least, most = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    return Setting(
        key=key,
        meaning=meaning.replace("`", ""),  # Markdown
        type=schema["type"],
        choices=schema.get("enum", ()),
        least=least,
        most=most if most is not None else schema.get("exclusiveMaximum"),
        limits=limits,
    )
