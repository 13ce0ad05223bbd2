"""Feeds mutated files to what reads files, led by the code that they reach (atheris, libFuzzer).

    pip install -r tests/soak/requirements.txt
    python tests/soak/fuzz.py pictures --seconds 600

A reader may read a file or refuse it by one line; anything else is a finding, whose bytes are written to `crash-…`.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(
    include=["cifarlab", "PIL", "tarfile", "zipfile", "json", "tomllib", "csv", "numpy.lib"]
):
    import hostile
    from cifarlab.errors import CifarlabError

KINDS = ("pictures", "weights", "checkpoints", "tars", "arrays", "tables", "texts", "keras")
LONGEST = 300_000  # bytes of a file


def readers(kind: str) -> tuple[list[bytes], Callable[[Path], object]]:
    """Files to begin with, and what reads them."""
    if kind == "keras":
        return keras_models()
    cases = list(getattr(hostile, kind)())
    return [content for _, content, _ in cases if len(content) <= LONGEST], cases[0][2]


def keras_models() -> tuple[list[bytes], Callable[[Path], object]]:
    """Descriptions of models that real Keras wrote; each mutated one is put beside the weights of the first."""
    from cifarlab import import_keras

    archive = sorted((Path(__file__).parents[1] / "keras" / "files").glob("keras-3*.zip"))[-1]
    with zipfile.ZipFile(archive) as outer:
        models = [zipfile.ZipFile(io.BytesIO(outer.read(name))) for name in outer.namelist() if name.endswith(".keras")]
    parts = {name: models[0].read(name) for name in models[0].namelist()}

    def read(path: Path) -> object:
        with zipfile.ZipFile(path.with_suffix(".keras"), "w") as new:
            for name, content in {**parts, "config.json": path.read_bytes()}.items():
                new.writestr(name, content)
        return import_keras(path.with_suffix(".keras"))

    return [model.read("config.json") for model in models], read


def main() -> None:
    """Fuzzes one kind of file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "kind", choices=["pictures", "weights", "checkpoints", "tars", "arrays", "tables", "texts", "keras"]
    )
    parser.add_argument("--seconds", type=int, default=600)
    given = parser.parse_args()
    beginnings, read = readers(given.kind)
    corpus = Path(tempfile.mkdtemp())
    for number, content in enumerate(beginnings):
        (corpus / str(number)).write_bytes(content)

    def once(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            path.write_bytes(content)
            try:
                read(path)
            except CifarlabError as error:
                text = str(error)
                assert "\n" not in text and len(text) < 2_000, text

    options: list[Any] = [sys.argv[0], f"-max_total_time={given.seconds}", f"-max_len={LONGEST}", "-timeout=20"]
    atheris.Setup([*options, "-rss_limit_mb=3000", str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
