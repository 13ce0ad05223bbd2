"""List the images of a folder for each class, in a folder for each part or in none."""

from pathlib import Path
from unicodedata import normalize

from cifarlab.data.own import array_files
from cifarlab.data.own.image_list import (
    JUNK,
    RUN_FILES,
    ImageFile,
    classes_of,
    files_in,
    in_natural_order,
    is_image,
    is_loop,
    natural_order,
    part_of,
)
from cifarlab.errors import UsageError, one_line, readable, unknown
from cifarlab.progress import notice


def list_folder(root: Path, quiet: bool) -> tuple[list[ImageFile], tuple[str, ...]]:
    """Return the images and the class names of a folder, or of the arrays in it if it has no folders."""
    folders, unused = _subfolders(root)
    parts: dict[str, Path] = {}
    for folder in folders:
        images = any(map(is_image, folder.iterdir()))
        if (part := part_of(folder.name)) and not images and _subfolders(folder)[0]:  # else a class called `train`
            if part in parts:
                both = f"{parts[part].name} and {folder.name}"
                raise UsageError(f"{root}: {both} are both folders of the part {part}. Move one elsewhere.")
            parts[part] = folder
    if parts:
        unused += [folder for folder in folders if folder not in parts.values()]
    for place in (root, *parts.values()) if folders else ():
        _say_oddities(place, quiet)
    files, classes = list[ImageFile](), dict[str, str]()  # classes by their name in Unicode's composed form
    for part, folder in sorted((parts or {"train": root}).items(), key=lambda pair: pair[0] != "train"):
        class_folders, others = _subfolders(folder)
        unused += others if parts else []
        for path in class_folders:
            label = readable(path.name)
            if part != "train" and "train" in parts and normalize("NFC", label) not in classes:
                reason = unknown("class folder", label, classes.values())
                raise UsageError(f"{folder}: {reason} (the classes are the folders in {parts['train']})")
            label = classes.setdefault(normalize("NFC", label), label)
            files += [ImageFile(file, label, part, one_line(file)) for file in files_in(path)]
    if not classes:
        if files := array_files.list_array_files(root, quiet):
            return files, classes_of(files)
        raise UsageError(f"{root}: should contain a folder of images per class, at least two, got 0")
    paths = [file.source for file in files if isinstance(file.source, Path)]
    if (arrays := [path for path in paths if array_files.NAMES.search(path.name)]) and not any(map(is_image, paths)):
        raise UsageError(f"{root}: the files of the data set are deeper, in folder:{arrays[0].parent}")
    files += [ImageFile(path, next(iter(classes.values())), files[0].part, one_line(path)) for path in unused if files]
    return files, tuple(sorted(classes.values(), key=natural_order))


def _say_oddities(folder: Path, quiet: bool) -> None:
    """Name files of pictures beside folders, and folders whose names differ in Unicode's normal form alone."""
    if loose := [path.name for path in folder.iterdir() if is_image(path) or array_files.NAMES.search(path.name)]:
        text = f"{len(loose)} files beside the folders are not used, such as {one_line(min(loose))}"
        notice(f"{folder}: {text}", quiet=quiet)
    names = [normalize("NFC", readable(path.name)) for path in _subfolders(folder)[0]]
    for name in sorted({name for name in names if names.count(name) > 1}):
        notice(f"{folder}: the folders called {name!r}, spelt in different bytes, are one class", quiet=quiet)


def _subfolders(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders in `root` that may hold images, in natural order, and its folders of runs and broken links."""
    folders, others = list[Path](), list[Path]()
    for path in in_natural_order(root.iterdir(), root):
        if path.name.startswith(".") or path.name in JUNK or (path.exists() and not path.is_dir()):
            continue
        runs = any(next(path.glob(f"{place}{name}"), None) for place in ("", "*/") for name in RUN_FILES)
        (others if runs or not path.exists() or is_loop(path) else folders).append(path)
    return folders, others
