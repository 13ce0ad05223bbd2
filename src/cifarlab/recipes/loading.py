"""Recipes by name or TOML file, recipes and single values as TOML, and `key=value` settings from the command line."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from cifarlab.errors import UsageError, one_line, unknown
from cifarlab.files import read_regular, with_home
from cifarlab.recipes.recipe import FOR_ONE_NETWORK, Recipe, check, keys

FOLDER = Path(__file__).parent
DEFAULT = "fast90"
MILD = "lenet5"  # slow, but trains most networks: the default for networks that no recipe was made for
FINE_TUNING = "finetune"  # the default for weights to start from
SMALL = "small"  # the default for few images of the user's own
FEW_IMAGES = 500  # training images up to which `SMALL` is the default
_BY_OPTION = {
    "merge": "--merge FROM=INTO",
    "drop": "--drop CLASS",
    "labels": "--labels FILE",
}  # keys that have an option of their own
_AS_TOML = {"merge": '{FROM = "INTO"}', "drop": '["CLASS"]', "labels": '{"IMAGE" = "CLASS"}'}
LARGEST_FILE = 100_000  # bytes; a recipe has about a thousand


def names() -> list[str]:
    """Return the names of the built-in recipes in alphabetical order."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.toml"))


def find(name_or_file: str) -> Path:
    """Return the path of the TOML file of a built-in recipe, or of the user's own."""
    if not isinstance(name_or_file, str):
        raise UsageError(f"a recipe is given by its name or TOML file, got {name_or_file!r}")
    if name_or_file.endswith(".toml"):
        return Path(with_home(name_or_file))
    if name_or_file not in names():
        if ":" in name_or_file:
            option = "--start-from" if name_or_file.startswith("pretrained:") else "--data"
            raise UsageError(f"{name_or_file!r} is not a recipe. Give it as {option} {name_or_file}")
        if Path(name_or_file).is_file():
            raise UsageError(f"the file {name_or_file!r} is not a recipe: a recipe's file is called NAME.toml")
        raise unknown("recipe", name_or_file, names())
    return FOLDER / f"{name_or_file}.toml"


def load(name_or_file: str) -> Recipe:
    """Return a built-in recipe by its name, or the recipe in a TOML file.

    A file with the key `base`, the name of a built-in recipe, takes all settings from there that it does not have.
    """
    path, context = find(name_or_file), f"recipe {name_or_file!r}"
    tables = {"name": path.stem if name_or_file.endswith(".toml") else name_or_file} | read_tables(path)
    if "base" in tables:
        tables = _with_base(tables, tables.pop("base"), context)
    return check(tables, context)


def _with_base(tables: dict[str, Any], base: Any, context: str) -> dict[str, Any]:
    """Return the settings of a built-in recipe, replaced by those in `tables`; inner tables are joined.

    Description and published results belong to one recipe, and some settings to one network: they are not taken over.
    """
    if base not in names():
        raise UsageError(f"{context}: {unknown('base', str(base), names())}")
    parent = load(base)
    is_same_network = tables.get("model", parent.model) == parent.model
    left_out = {"description", "published", *(() if is_same_network else FOR_ONE_NETWORK)}
    settings = parent.model_dump(exclude=left_out)
    for key, value in tables.items():
        is_joined = isinstance(value, dict) and isinstance(settings.get(key), dict)
        settings[key] = settings[key] | value if is_joined else value
    return settings


def read_tables(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file of at most `LARGEST_FILE` bytes."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(f"{path}: too large for a recipe; at most {LARGEST_FILE:,} bytes are read")
        return tomllib.loads(read_regular(path.resolve()).decode("utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # ValueError also for numbers with thousands of digits
        raise UsageError(f"{path}: not a TOML file: {one_line(error)}") from error


def to_toml(recipe: Recipe, comment: str = "") -> str:
    """Return the text of a TOML file, with `comment` as its head, without published results and default values."""
    head = "".join(f"# {''.join(filter(str.isprintable, line))}\n" for line in comment.splitlines())
    text = tomli_w.dumps(recipe.model_dump(exclude_defaults=True, exclude={"published"}))
    return f"{head}\n{text}" if head else text


def toml_value(value: Any) -> str:
    """Return one value as TOML writes it, on one line: what `--set KEY=VALUE` takes."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        pairs = (tomli_w.dumps({key: 0}).removesuffix("0\n") + toml_value(inner) for key, inner in value.items())
        return f"{{{', '.join(pairs)}}}"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").removesuffix("\n")


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Parse texts such as `augment.flip=true` or `model=keras4`; a value that is not TOML is taken as text."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UsageError(f"--set {setting!r}: should be key=value")
        if key not in keys() and not key.startswith(("model_options.", "merge.", "labels.")):
            raise unknown("key", key, keys())
        if key in _BY_OPTION and "{" not in text and "[" not in text:
            raise UsageError(f"--set {setting!r}: use {_BY_OPTION[key]}, or {key}={_AS_TOML[key]}")
        try:
            changes[key] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            changes[key] = text
    return changes


def setting_text(key: str, value: Any) -> str:
    """Return the text `key=value` from which `parse_settings` reads this value; plain text gets no quotes."""
    plain = f"{key}={value}"
    is_plain = isinstance(value, str) and parse_settings([plain])[key] == value
    return plain if is_plain else f"{key}={toml_value(value)}"
