"""The images of a data set before they are read: their files, classes and parts.

`part_of` has the names of the parts, which are the same for folders, tables, files and arrays.
"""

import mimetypes
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifarlab.errors import UsageError, one_line, readable

LONGEST_CLASS_NAME = 100  # letters
RUN_FILES = {"run.json", "study.toml", "tuning.json"}  # mark folders of runs, whose figures are no data
JUNK = {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}  # what archives, network drives and Windows add
PARTS = dict.fromkeys(("train", "training"), "train")
PARTS |= dict.fromkeys(("test", "testing", "eval", "evaluation", "t10k"), "test")
PARTS |= dict.fromkeys(("validation", "val", "valid", "dev", "development"), "validation")


@dataclass(frozen=True)
class ImageFile:
    """An image of a data set that has not been read yet."""

    source: Path | bytes  # path of the file, or its content
    label: str
    part: str  # `train`, `validation` or `test`
    name: str  # in messages

    @property
    def place(self) -> str:
        """The path of the file, or the name of an image without one."""
        return readable(self.source) if isinstance(self.source, Path) else self.name


def part_of(name: str) -> str | None:
    """Return the part that a name such as `train`, `Test_Set` or `DEV` stands for: train, validation, test or None."""
    word = re.sub(r"[\W_]", "", name.casefold())
    return PARTS.get(re.sub("(set|split|data|images)$", "", word))


def files_in(folder: Path) -> list[Path]:
    """Return the files in a folder and its subfolders in natural order, without hidden files and run folders.

    Links are followed; a folder that several links lead to is read once, and a link to a folder above it is listed.
    """
    found, seen = list[Path](), set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or RUN_FILES & set(names) or is_loop(Path(place)):
            found += [Path(place)] * (real not in seen and is_loop(Path(place)))  # cannot be read, which is said
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in JUNK)
        found += [Path(place, name) for name in names if not name.startswith(".") and name not in JUNK]
    return in_natural_order(found, folder)


def is_loop(path: Path) -> bool:
    """Return True for a link to a folder that contains the link, and thus other classes."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def is_image(path: Path) -> bool:
    """Return True if a file is called as images are and is not hidden."""
    return not path.name.startswith(".") and (mimetypes.guess_type(path)[0] or "").startswith("image/")


def classes_of(files: Sequence[ImageFile]) -> tuple[str, ...]:
    """Return the classes of the training images, or of all images if there are none to train on."""
    training = {file.label for file in files if file.part == "train"}
    return tuple(sorted(training or {file.label for file in files}, key=natural_order))


def check_class_names(classes: Sequence[str], path: Path | str) -> None:
    """Check that there are classes, with distinct and printable names."""
    if not classes:
        raise UsageError(f"{path}: should have at least two classes, got 0")
    if len(set(classes)) < len(classes):
        raise UsageError(f"{path}: two classes have the same name")
    for name in classes:
        if len(name) > LONGEST_CLASS_NAME or not name.isprintable() or not name.strip():
            limit = f"at most {LONGEST_CLASS_NAME} printable letters"
            raise UsageError(f"{path}: a class name should have {limit}, got {one_line(name)[:40]!r}")


def in_natural_order(paths: Iterable[Path], root: Path) -> list[Path]:
    """Return the paths in natural order of their names below `root`."""
    return sorted(paths, key=lambda path: natural_order(path.relative_to(root).as_posix()))


def natural_order(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a sort key that puts `2` before `10` and numbers before letters; the text decides between `1` and `01`."""
    parts = [part for part in re.split(r"(\d{1,4000})", name) if part]  # Python refuses to read longer numbers
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part.lower()) for part in parts], name
