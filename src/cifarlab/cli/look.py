"""`cifarlab models|summary|recipes|recipe|doctor`: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cifarlab.cli.options import Runs
from cifarlab.cli.show import AsJson, as_json, percent, table


def models(json: AsJson = False) -> None:
    """List the networks with their parameters and multiply-adds."""
    from cifarlab.models import build_model, model_names
    from cifarlab.models.summary import count_macs, count_parameters

    rows = []
    for name in model_names():
        network = build_model(name)
        rows.append({"name": name, "parameters": count_parameters(network), "macs": count_macs(network)})
    if json:
        as_json(rows)
    else:
        cells = [(row["name"], f"{row['parameters']:,}", f"{row['macs']:,}") for row in rows]
        table(("name", "parameters", "multiply-adds"), cells, ("parameters", "multiply-adds"))
        typer.echo("Look inside one with: cifarlab summary NAME")


def summary(
    model: Annotated[str, typer.Argument(help="A network, FILE.py:NAME for your own, a run or a weights file.")],
    classes: Annotated[int, typer.Option(help="Number of outputs.", min=2)] = 10,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.", min=8, max=512)] = 32,
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Draw a network's layers as text: operations, data dimensions, weights."""
    from dataclasses import asdict

    from cifarlab.models.summary import draw, layer_table

    network, size = _network(model, classes, size, runs)
    rows = layer_table(network, size)
    if json:
        as_json({"model": model, "layers": [asdict(row) for row in rows]})
    else:
        typer.echo(draw(model, rows, size))


def _network(model: str, classes: int, size: int, runs: Path | None) -> tuple[Any, int]:
    """A trained network and the size of its images, where the name is a target's; else a fresh one."""
    from cifarlab.errors import UsageError
    from cifarlab.models import build_model
    from cifarlab.runs.listing import runs_folder

    if model.endswith(".onnx"):
        raise UsageError(f"{model}: an ONNX file does not show its layers here: give the run that it was made of")
    is_run = any((folder / model / "run.json").is_file() for folder in (runs_folder(runs), Path()))
    if not is_run and not model.endswith(".safetensors") and not model.startswith("pretrained:"):
        return build_model(model, classes=classes, size=size), size
    from cifarlab.inference import targets

    classifier = targets.load(model, runs=runs)
    return classifier.network, classifier.size


def recipes(json: AsJson = False) -> None:
    """List the recipes with the figures published for them."""
    from cifarlab.recipes import load, names

    loaded = [load(name) for name in names()]
    if json:
        keys = ("name", "model", "epochs", "published")
        as_json([{key: recipe.model_dump(mode="json")[key] for key in keys} for recipe in loaded])
        return
    cells = []
    for recipe in loaded:
        published = ", ".join(f"{percent(figure.accuracy)} ({figure.epochs} ep.)" for figure in recipe.published)
        cells.append((recipe.name, recipe.model, recipe.epochs, published or "-"))
    table(("name", "model", "epochs", "published accuracy"), cells, ("epochs",))
    typer.echo("See one with: cifarlab recipe NAME; train it with: cifarlab train NAME")


def recipe(name: Annotated[str, typer.Argument(help="A recipe's name, or a TOML file.")], json: AsJson = False) -> None:
    """Print a recipe's TOML, for copying."""
    from cifarlab.recipes import load, source

    loaded = load(name)
    if json:
        as_json(loaded.model_dump(mode="json"))
    else:
        typer.echo(source(name).rstrip())


def doctor(json: AsJson = False) -> None:
    """Tell machine, versions and what is missing, for a bug report."""
    import shutil

    from cifarlab.data.cifar10 import cache_folder, is_cached
    from cifarlab.device import choose_device, environment, has_fast_bf16
    from cifarlab.runs.listing import runs_folder

    device = choose_device()
    facts: dict[str, Any] = {
        **environment(device),
        "fast_bf16": has_fast_bf16(device),
        "cache": str(cache_folder()),
        "cifar10_cached": is_cached(),
        "npm": shutil.which("npm") is not None,
        "runs": str(runs_folder()),
        "cache_free_gb": round(shutil.disk_usage(_existing(cache_folder())).free / 1e9, 1),
    }
    if json:
        as_json(facts)
        return
    for key, value in facts.items():
        typer.echo(f"{key:15} {_told(value)}")
    if not facts["cifar10_cached"]:
        typer.echo("CIFAR-10 is not here yet: cifarlab data get")


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Recipes; default: one for each network.", metavar="[RECIPE]...")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16; default: each recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: each recipe's.", min=2)] = None,
    seconds: Annotated[float, typer.Option(help="For each measurement.", min=0.0)] = 3.0,
    json: AsJson = False,
) -> None:
    """Measure how fast this machine is, and how near to its limits each network trains and predicts."""
    from dataclasses import asdict

    from cifarlab.device import SLOW_FP16, choose_device, environment
    from cifarlab.experiments import bench as measuring
    from cifarlab.progress import notice
    from cifarlab.recipes import load

    chosen = [load(name) for name in names] if names else measuring.one_recipe_per_network()
    changes = {"precision": precision, "batch_size": batch_size}
    chosen = [each.changed({key: value for key, value in changes.items() if value is not None}) for each in chosen]
    where = choose_device(device)
    if where.type == "cpu" and any(each.precision == "fp16" for each in chosen):
        notice(SLOW_FP16)
    peaks, speeds = measuring.measure_all(chosen, where, seconds)
    if json:
        rows = [asdict(speed) for speed in speeds]
        as_json({"environment": environment(where), "peaks": [asdict(peak) for peak in peaks], "speeds": rows})
        return
    limits = [(peak.precision, _giga(peak.convolution), _giga(peak.matmul)) for peak in peaks]
    table(("peak, GFLOP/s", "convolution", "matmul"), limits, ("convolution", "matmul"))
    titles = ("recipe", "precision", "batch", "train images/s", "GFLOP/s", "of peak", "predict images/s", "of its peak")
    cells = [
        (
            speed.recipe,
            speed.precision,
            speed.batch_size,
            f"{speed.train_images_per_second:,.0f}",
            _giga(speed.train_flops),
            f"{speed.train_share:.0%}",
            f"{speed.predict_images_per_second:,.0f}",
            f"{speed.predict_share:.0%}",
        )
        for speed in speeds
    ]
    table(titles, cells, titles[2:])


def _giga(rate: float) -> str:
    return f"{rate / 1e9:,.0f}"


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _existing(path: Any) -> Any:
    return path if path.exists() else _existing(path.parent)


COMMANDS = (models, summary, recipes, recipe, bench, doctor)
