"""List the images of a Hugging Face data set on disk."""

import importlib.util
import re
from pathlib import Path
from typing import Any

from cifarlab.data.own.image_list import ImageFile, classes_of, files_in, part_of
from cifarlab.errors import UsageError
from cifarlab.files import read_regular, why_unreadable
from cifarlab.limited.reading import read_limited

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")  # names that Hugging Face data sets use
CHILD = Path(__file__).with_name("arrow_child.py")
MAX_INFLATION = 20  # bytes of memory for each byte of a table; images hardly compress further
SMALL_TABLE = 2**26  # bytes of memory that are always allowed


def list_huggingface(root: Path, _quiet: bool) -> tuple[list[ImageFile], tuple[str, ...]]:
    """List a folder of Parquet files, as on the hub, or of Arrow files, as `save_to_disk` writes them."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError("hf: needs pyarrow: pip install 'cifarlab[hf]'")
    paths = [path for path in files_in(root) if path.suffix in (".parquet", ".arrow") and "cache-" not in path.name]
    if not paths:
        raise UsageError(f"{root}: contains no Parquet and no Arrow file")
    files: list[ImageFile] = []
    class_order: list[str] = []
    for path in paths:
        table_files, names = _list_table(path, path.relative_to(root))
        files += table_files
        class_order += names
    classes = classes_of(files)
    return files, tuple(name for name in dict.fromkeys(class_order) if name in classes) or classes


def read_table(content: bytes, *, is_parquet: bool) -> tuple[dict[str, Any], list[memoryview]]:
    """Return the labels of a Parquet or Arrow file with the names of their classes, and the content of its images.

    Without one column of images and one of labels, the first value has the types of the columns instead.
    """
    limit = max(SMALL_TABLE, MAX_INFLATION * len(content))
    return read_limited(CHILD, content, is_parquet, LABEL_COLUMNS, limit, most_bytes=2 * limit)


def _list_table(file: Path, path: Path) -> tuple[list[ImageFile], list[str]]:
    """Return the images of a table, and the class names in its metadata or none; `path` is for messages."""
    try:
        table, images = read_table(read_regular(file.resolve()), is_parquet=file.suffix == ".parquet")
    except (OSError, UsageError) as error:
        raise UsageError(f"{file}: not a Parquet or Arrow file ({why_unreadable(file, error)})") from error
    if "types" in table:
        described = ", ".join(f"{name} ({kind})" for name, kind in table["types"].items())
        raise UsageError(f"{path}: should have one column of images and one called label, got {described}")
    names = table["names"]
    words = [*path.parts[:-1], re.split(r"[-_.]", path.name)[0]]  # `train` of train-00000-of-00001.parquet
    part = next(filter(None, map(part_of, words)), "train")
    files = []
    for number, (image, label) in enumerate(zip(images, table["labels"], strict=True)):
        place = f"{path}, row {number}"
        if label is None or label == -1 or (names and label not in range(len(names))):
            raise UsageError(f"{place}: the label {label} is not a class")
        files.append(ImageFile(bytes(image), names[label] if names else str(label), part, place))
    return files, names
