"""Data sets of one's own pictures: plain folders that `folder:DIR` reads, `SET/CLASS/NUMBER.png`.

Removed pictures are moved into the hidden folder `.removed` of their set, so that every change can be undone. The
table of corrected labels, `SET.labels.csv`, follows all changes: it names pictures and classes that there are.
"""

import contextlib
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

from pydantic import BaseModel

from cifarlab import files
from cifarlab.board.answers import NotFoundError
from cifarlab.board.pictures import decoding_child
from cifarlab.data.corrections import read_labels, write_labels
from cifarlab.data.image_files import MOST_PIXELS_IN_MEMORY
from cifarlab.data.own.image_list import JUNK, natural_order
from cifarlab.data.quality.checks import check_data_set
from cifarlab.errors import CifarlabError, UsageError, unknown
from cifarlab.limited.reading import read_limited

LONGEST_NAME = 60  # letters of a set or a class
MOST_SETS = 50
MOST_CLASSES = 100  # of a set
MOST_PICTURES = 5_000  # of a set, without the removed ones
MOST_BYTES = 1_000_000_000  # of a set, with the removed ones
MOST_UNDONE = 100  # changes of a set that can be undone, until the board is stopped
REMOVED = ".removed"
_NAME = re.compile(r"\w(?:[\w .,+'()-]*[\w)])?")
_PICTURE = re.compile(r"\d{1,9}\.png")

Moves = list[tuple[Path, Path]]


class PictureSet(BaseModel, frozen=True):
    """A data set with the names of its pictures by class."""

    name: str
    data: str
    """The data set as `--data` takes it."""
    classes: dict[str, list[str]]
    can_undo: bool


class SetFinding(BaseModel, frozen=True):
    """A finding of `cifarlab data check`, with the pictures that it names as CLASS/FILE."""

    kind: str
    text: str
    pictures: list[str]


class PictureStore:
    """The folder that holds the data sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._changing = threading.RLock()
        self.writing_labels = threading.Lock()  # held while a table of corrected labels is changed
        self._undo: dict[str, list[tuple[Moves, dict[str, str]]]] = {}  # with the lines of the table that were lost

    def names(self) -> list[str]:
        """Return the names of the data sets in natural order."""
        return _folders(self.folder)

    def create(self, name: str) -> PictureSet:
        """Make an empty data set."""
        name = _checked("a data set's name", name)
        with self._changing:
            if len(self.names()) >= MOST_SETS:
                raise UsageError(f"there may be at most {MOST_SETS} data sets in {self.folder}. Delete a folder there.")
            if os.path.lexists(self.folder / name):
                raise UsageError(f"there is already a data set {name!r}. Choose another name.")
            if os.path.lexists(table := self.labels_table(name)):
                raise UsageError(f"{table} belongs to an earlier data set {name!r}. Delete it, or choose another name.")
            files.make_folder(self.folder / name)
            return self.read(name)

    def read(self, name: str) -> PictureSet:
        """Return the classes and pictures of a data set."""
        folder = self.path(name)
        classes = {label: _pictures(folder / label) for label in _folders(folder)}
        return PictureSet(name=name, data=f"folder:{folder}", classes=classes, can_undo=bool(self._undo.get(name)))

    def path(self, name: str) -> Path:
        """Return the folder of a data set."""
        if name not in (names := self.names()):
            raise NotFoundError(str(unknown("data set of pictures", name[:LONGEST_NAME], names)))
        return self.folder / name

    def labels_table(self, name: str) -> Path:
        """Return the path of a data set's table of corrected labels."""
        return self.folder / f"{name}.labels.csv"

    def labels(self, name: str) -> dict[str, str]:
        """Return a data set's corrected labels by picture."""
        table = self.labels_table(name)
        return read_labels(table) if table.exists() else {}

    def picture(self, name: str, label: str, file: str) -> bytes:
        """Return a picture, a PNG file."""
        folder = self.path(name)
        if label not in _folders(folder) or not _PICTURE.fullmatch(file):
            raise NotFoundError("there is no such picture")
        try:
            return files.read_regular(folder / label / file)
        except OSError as error:
            raise NotFoundError("there is no such picture") from error

    def add_class(self, name: str, label: str) -> PictureSet:
        """Add an empty class."""
        with self._changing:
            folder, label = self.path(name), _checked("a class name", label)
            labels = _folders(folder)
            if len(labels) >= MOST_CLASSES:
                raise UsageError(f"a data set may have at most {MOST_CLASSES} classes")
            if label.casefold() in map(str.casefold, labels):
                raise UsageError(f"there is already a class {label!r}")
            files.make_folder(folder / label)
            return self.read(name)

    def rename_class(self, name: str, label: str, new_label: str) -> PictureSet:
        """Give a class another name."""
        with self._changing:
            folder, new_label = self._class(name, label), _checked("a class name", new_label)
            if new_label.casefold() in (each.casefold() for each in _folders(folder.parent) if each != label):
                raise UsageError(f"there is already a class {new_label!r}")
            self._move(name, [(folder, folder.with_name(new_label))])
            return self.read(name)

    def remove_class(self, name: str, label: str) -> PictureSet:
        """Remove a class with its pictures."""
        with self._changing:
            folder = self._class(name, label)
            self._move(name, self._removals(folder.parent, [f"{label}/{file}" for file in _pictures(folder)]))
            with contextlib.suppress(OSError):  # a file of the user's own is in it
                folder.rmdir()
            return self.read(name)

    def add(self, name: str, label: str, uploads: Sequence[tuple[str, bytes]]) -> dict[str, str]:
        """Store uploaded pictures as squares in a class, and return the errors of unreadable ones by name."""
        with self._changing:  # decoding too: one visitor at a time needs the processor
            folder = self._class(name, label)
            count = sum(map(len, self.read(name).classes.values()))
            if count + len(uploads) > MOST_PICTURES:
                raise UsageError(f"a data set may have at most {MOST_PICTURES:,} pictures, it has {count:,}")
            stored = list(folder.parent.rglob("*.png"))
            if sum(path.lstat().st_size for path in stored) > MOST_BYTES:
                raise UsageError(f"the data set {name!r} has {MOST_BYTES // 10**6:,} MB. Make another one.")
            number = max((int(path.stem) for path in stored if _PICTURE.fullmatch(path.name)), default=0)
            errors, added = dict[str, str](), Moves()
            for (file_name, _), (error, square) in zip(uploads, _decode(uploads), strict=True):
                if error:
                    errors[file_name] = error
                    continue
                number += 1
                path = folder / f"{number:06}.png"
                files.write_bytes(path, square, durable=False)
                added.append((folder.parent / REMOVED / label / path.name, path))
            self._remember(name, added, {})
            return errors

    def move(self, name: str, pictures: Sequence[str], label: str) -> PictureSet:
        """Move pictures, each CLASS/FILE, into another class; an empty label removes them."""
        with self._changing:
            folder = self.path(name)
            for picture in pictures:
                origin, _, file = picture.partition("/")
                if origin not in _folders(folder) or not _PICTURE.fullmatch(file):
                    raise NotFoundError(f"there is no picture {picture[:LONGEST_NAME]!r}")
            if label:
                target = self._class(name, label)
                self._move(name, [(folder / each, target / each.partition("/")[2]) for each in pictures])
            else:
                self._move(name, self._removals(folder, pictures))
            return self.read(name)

    def undo(self, name: str) -> PictureSet:
        """Undo the last change of a data set's pictures."""
        with self._changing:
            self.path(name)
            if not self._undo.get(name):
                raise UsageError("there is nothing to undo")
            with self.writing_labels:
                labels = self.labels(name)
                moves, lost = self._undo[name].pop()
                for origin, target in reversed(moves):
                    _rename(target, origin)
                self._write_labels(name, {**lost, **_followed(labels, self.path(name), _reversed(moves))})
            return self.read(name)

    def check(self, name: str) -> list[SetFinding]:
        """Return what `cifarlab data check` finds."""
        folder = self.path(name)
        pictures = [f"{label}/{file}" for label, all_files in self.read(name).classes.items() for file in all_files]
        if not pictures:
            return []
        findings = []
        for finding in check_data_set(f"folder:{folder}", quiet=True):
            text = finding.text.replace(f"{folder}/", "")
            named = set(re.findall(r"[^/=:]+/\d{1,9}\.png", text))
            findings.append(
                SetFinding(
                    kind=finding.kind,
                    text=text,
                    pictures=[each for each in pictures if any(part.strip() == each for part in named)],
                )
            )
        return findings

    def data_sets(self) -> dict[str, tuple[str, ...]]:
        """Return the data sets that can be trained on, as `--data` takes them, with their classes."""
        sets = map(self.read, self.names())
        return {each.data: tuple(each.classes) for each in sets if sum(map(bool, each.classes.values())) > 1}

    def _class(self, name: str, label: str) -> Path:
        folder = self.path(name)
        if label not in (labels := _folders(folder)):
            raise unknown("class", label[:LONGEST_NAME], labels)
        return folder / label

    def _removals(self, folder: Path, pictures: Sequence[str]) -> Moves:
        return [(folder / picture, folder / REMOVED / picture) for picture in pictures]

    def _move(self, name: str, moves: Moves) -> None:
        done = Moves()
        with self.writing_labels:
            labels = self.labels(name)
            try:
                for origin, target in moves:
                    if origin != target:
                        _rename(origin, target)
                        done.append((origin, target))
            finally:
                folder = self.folder / name
                followed = _with_pictures(_followed(labels, folder, done), folder)
                back = _followed(followed, folder, _reversed(done))
                lost = {picture: label for picture, label in labels.items() if picture not in back}
                self._remember(name, done, lost)
                self._write_labels(name, followed)

    def _write_labels(self, name: str, labels: Mapping[str, str]) -> None:
        if labels != self.labels(name):
            write_labels(self.labels_table(name), labels)

    def _remember(self, name: str, moves: Moves, lost: dict[str, str]) -> None:
        if moves:
            self._undo[name] = [*self._undo.get(name, []), (moves, lost)][-MOST_UNDONE:]


def _reversed(moves: Moves) -> Moves:
    return [(target, origin) for origin, target in reversed(moves)]


def _followed(labels: Mapping[str, str], folder: Path, moves: Moves) -> dict[str, str]:
    """Return the corrected labels of a data set's folder after pictures and classes were moved.

    A picture that moves into another class loses its correction, because the move is the newer decision; a picture that
    trainings leave out stays left out. A removed picture loses its line.
    """
    followed = dict(labels)
    for origin, target in moves:
        old, new = (path.relative_to(folder).as_posix() for path in (origin, target))
        if "/" in old:
            if followed.pop(old, None) == "" and not new.startswith(f"{REMOVED}/"):
                followed[new] = ""
        else:  # a class
            followed = {
                new + picture[len(old) :] if picture.startswith(f"{old}/") else picture: new if label == old else label
                for picture, label in followed.items()
            }
    return followed


def _with_pictures(labels: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the corrected labels without those whose class has no pictures, because trainings do not know it."""
    classes = {label for label in _folders(folder) if os.listdir(folder / label)}
    return {picture: label for picture, label in labels.items() if not label or label in classes}


def _rename(origin: Path, target: Path) -> None:
    files.make_folder(target.parent)
    try:
        if os.path.lexists(target):
            raise UsageError(f"{target.name} is in {target.parent.name} already")
        origin.rename(target)
    except OSError as error:
        raise CifarlabError(f"cannot move {origin.name}: {error.strerror or error}") from error


def _checked(what: str, name: str) -> str:
    """Return a name that is safe as a folder's."""
    name = normalize("NFC", name.strip())
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name) or name in JUNK:
        allowed = f"1 to {LONGEST_NAME} letters, digits, spaces and . , + - ' ( ), and begin with a letter or digit"
        raise UsageError(f"{what} must have {allowed}, got {name[:LONGEST_NAME]!r}")
    return name


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return sorted((name for name in names if not name.startswith(".") and name not in JUNK), key=natural_order)


def _pictures(folder: Path) -> list[str]:
    return sorted((name for name in os.listdir(folder) if _PICTURE.fullmatch(name)), key=natural_order)


def _decode(uploads: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return an error or a square PNG file for each upload; a child process decodes them.

    If the child process ends early, each upload gets a process of its own, so that a harmful one spoils no others.
    """
    names = [name for name, _ in uploads]
    content = b"".join(upload for _, upload in uploads)
    sizes = [len(upload) for _, upload in uploads]
    try:
        errors, squares = read_limited(
            Path(decoding_child.__file__), content, names, sizes, most_bytes=16 * MOST_PIXELS_IN_MEMORY
        )
    except UsageError as error:
        if len(uploads) == 1:
            return [(f"{names[0]}: {error}", b"")]
        return [answer for upload in uploads for answer in _decode([upload])]
    return list(zip(errors, map(bytes, squares), strict=True))
