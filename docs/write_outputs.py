"""Run the commands that the pages show, and write their real output below them.

    python docs/write_outputs.py                       # every page
    python docs/write_outputs.py docs/guides/train.md  # one page

A page's commands stand in fences marked `console`, after a `$`. They run in order in one new folder, with standard
error and standard output together. Fences with a title, such as `title="space.toml"`, become files in that folder;
`pets/` (100 cats and 100 dogs) and `photo.jpg`, all from the test images of CIFAR-10, and `model.keras`, which Keras 3
wrote, are there too. A comment in the
line above a fence changes what happens:

    <!-- not run: REASON -->   leave the fence as it is
    <!-- head: N -->           show only the first N lines of output
    <!-- tail: N -->           show only the last N lines of output
    <!-- results only -->      leave standard error out, because its progress depends on the clock

`tests/docs/test_guides.py` runs the commands too, and compares their output with the page's by `form`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from cifarlab import cli, load_data

DOCS = Path(__file__).parent
PAGES = [DOCS.parent / "README.md", DOCS / "index.md", DOCS / "tutorial.md", *sorted((DOCS / "guides").glob("*.md"))]
FENCE = re.compile(r"^(?:<!-- (?P<note>.*?) -->\n)?```console\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
TITLED = re.compile(r'^```\w+ title="(?P<name>[^"]+)"\n(?P<body>.*?)^```$', re.MULTILINE | re.DOTALL)
KERAS_FILES = DOCS.parent / "tests" / "keras" / "files" / "keras-3.15.1-tensorflow.zip"
PHOTO = 1014  # a cat of the test images that no network here doubts
PROGRESS = re.compile(r"^.*\d%.* left\n", re.MULTILINE)  # how far a task is, printed on slow machines only
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"


@dataclass(frozen=True)
class Fence:
    """A fence of commands in a page, each with the output below it."""

    note: str
    steps: tuple[tuple[str, str], ...]

    @property
    def runs(self) -> bool:
        """True if the commands are run."""
        return not self.note.startswith("not run")


def fence_of(match: re.Match[str]) -> Fence:
    """Return the commands and outputs of a fence."""
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", match["body"], re.MULTILINE)
    return Fence(match["note"] or "", tuple(steps))


def fences(page: Path) -> list[Fence]:
    """Return the fences of commands in a page."""
    return [fence_of(match) for match in FENCE.finditer(page.read_text())]


def prepare(page: Path, folder: Path) -> None:
    """Put the files into the folder that the commands of a page need."""
    text = page.read_text()
    for match in TITLED.finditer(text):
        (folder / match["name"]).write_text(match["body"])
    if "model.keras" in text:
        with zipfile.ZipFile(KERAS_FILES) as files:
            (folder / "model.keras").write_bytes(files.read("separable.keras"))
    if "photo.jpg" in text or "pets" in text:
        data = load_data("cifar10", quiet=True)
        picture(data.test.images[PHOTO]).resize((320, 320), Image.Resampling.BICUBIC).save(folder / "photo.jpg")
        for name in ("cat", "dog"):
            (folder / "pets" / name).mkdir(parents=True)
            for number in np.flatnonzero(data.test.labels == data.classes.index(name))[1:101]:
                picture(data.test.images[number]).save(folder / "pets" / name / f"{number}.png")


def picture(pixels: np.ndarray) -> Image.Image:
    """Return an image of bytes [3, height, width] as a picture."""
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def run(command: str, folder: Path, *, results_only: bool = False) -> str:
    """Run a line of a page in a folder and return its output, with standard error unless `results_only`.

    A `cifarlab` command runs in this process, which spares it the imports; `torchrun` starts its own processes.
    """
    words = shlex.split(command, comments=True)
    settings = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "CIFARLAB_RUNS": "runs", "OMP_NUM_THREADS": "1"}
    output, progress = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), mock.patch.dict(os.environ, settings):
        if words[0] == "torchrun":
            words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            ended = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
            status = ended.returncode
            output.write(ended.stdout)
        else:
            assert words[0] == "cifarlab", f"cannot run {command!r}"
            errors = progress if results_only else output
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                status = cli.run(words[1:])
    if status:
        raise RuntimeError(f"{command}: exit status {status}\n{output.getvalue()}{progress.getvalue()}")
    return PROGRESS.sub("", output.getvalue()).replace(f"{folder.resolve()}/", "")


def shorten(output: str, note: str) -> str:
    """Return the part of an output that a note asks for."""
    kind, _, count = note.partition(": ")
    lines = [line.rstrip() for line in output.rstrip().splitlines()]
    if kind == "head" and len(lines) > int(count):
        lines = [*lines[: int(count)], "…"]
    if kind == "tail" and len(lines) > int(count):
        lines = ["…", *lines[-int(count) :]]
    return "".join(f"{line}\n" for line in lines)


def form(output: str) -> set[str]:
    """Return the lines of an output without their numbers, precisions, alignment and order."""
    lines = set()
    for line in output.splitlines():
        text = re.sub(r"\b(?:bf16|fp32|fp16)\b", "PRECISION", line)
        text = re.sub(rf"(?:{NUMBER}:)?{NUMBER}\s?(?:%|s|ms|min|MB|kB|GB)?(?![\w])", "0", text)
        text = re.sub(r"[-─━=|│]{2,}", "-", text)
        lines.add(" ".join(text.split()))
    return lines - {"", "…"}


def outputs(page: Path) -> Iterator[tuple[str, str, str]]:
    """Run a page's commands; yield each with the output that the page shows and the real one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(page, folder)
        for fence in fences(page):
            if fence.runs:
                for command, shown in fence.steps:
                    output = run(command, folder, results_only=fence.note == "results only")
                    yield command, shown, shorten(output, fence.note)


def rewrite(page: Path) -> None:
    """Replace the outputs in a page by real ones."""
    real = [new for _, _, new in outputs(page)]

    def replace(match: re.Match[str]) -> str:
        fence = fence_of(match)
        if not fence.runs:
            return match[0]
        body = "".join(f"$ {command}\n{real.pop(0)}" for command, _ in fence.steps)
        return f"{f'<!-- {fence.note} -->' + chr(10) if fence.note else ''}```console\n{body}```"

    page.write_text(FENCE.sub(replace, page.read_text()))


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or map(str, PAGES)):
        print(path, file=sys.stderr)
        rewrite(path)
