"""`cifarlab compare|reproduce|study`: what several runs say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifarlab.cli.options import Data, Device, Runs, with_data
from cifarlab.cli.show import AsJson, as_json, percent, table

if TYPE_CHECKING:
    from cifarlab.experiments.study.grid import Study
    from cifarlab.experiments.study.outcome import Outcome
    from cifarlab.statistics.comparison import Comparison, Group, Pair


def compare(
    names: Annotated[
        list[str],
        typer.Argument(help="Runs or studies by name or path; quote a pattern such as 'a-*'.", metavar="RUN..."),
    ],
    metric: Annotated[
        str, typer.Option(help="accuracy or balanced_accuracy, the mean recall of the classes.")
    ] = "accuracy",
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Say which differences between recipes are real: over seeds, or over test images for single runs."""
    from cifarlab import api

    found = api.compare(names, metric, runs=runs)
    if json:
        as_json(asdict(found))
        return
    figures = ("accuracy", "balanced") if metric == "accuracy" else ("balanced", "accuracy")
    titles = (
        "setting" if _short(found) else "recipe",
        "runs",
        figures[0],
        "deviation",
        "95 % interval",
        figures[1],
        "majority",
    )
    table(titles, [_cells(group, metric) for group in found.groups], titles[1:])
    _print_pairs(found)


def _short(found: Comparison) -> bool:
    """Whether groups are called by their settings alone."""
    return any(group.label != group.name for group in found.groups)


def _print_pairs(found: Comparison) -> None:
    labels, pairs = found.labels, found.table_pairs
    if found.table_note:
        typer.echo(f"{found.table_note} All {len(found.pairs)} pairs: --json.")
    if pairs:
        titles = ["difference", "b - a", "95 % interval", "p", "p, corrected", "real?", "could have seen"]
        shown = [list(_judged(pair, labels)) for pair in pairs]
        if found.with_best:  # a is the same in all, and a few columns less fit a narrow terminal
            shown = [[labels[pair.b], *cells[1:3], *cells[4:6]] for pair, cells in zip(pairs, shown, strict=True)]
            titles = ["setting", "minus best", *titles[2:3], *titles[4:6]]
        table(titles, shown, titles[1:])
    for pair in pairs:
        if pair.note:
            typer.echo(f"{labels[pair.b]} against {labels[pair.a]}: {pair.note}")
    over_images = {pair.test for pair in pairs} == {"mcnemar"}
    if over_images:
        typer.echo("Single runs: the tests know nothing of other seeds. Train each recipe with some five --seed.")


def _cells(group: Group, metric: str) -> tuple[str, ...]:
    estimate, other = (
        group.estimate(metric),
        group.estimate("balanced_accuracy" if metric == "accuracy" else "accuracy"),
    )
    deviation, interval = percent(estimate.deviation), _interval(estimate.low, estimate.high)
    if estimate.n == 1:
        interval = f"{_interval(*group.test_interval)} over images"
    majority = percent(group.majority)
    return group.label, str(estimate.n), percent(estimate.mean), deviation, interval, percent(other.mean), majority


def _judged(pair: Pair, labels: Mapping[str, str]) -> tuple[str, ...]:
    a, b, found = labels[pair.a], labels[pair.b], pair.found
    name = f"({b}) - ({a})" if "," in a + b and "(" not in a + b else f"{b} - {a}"
    if found is None or pair.corrected is None:
        return name, "-", "-", "-", "-", "not compared", "-"
    verdict = "yes" if pair.real else "may be chance"
    interval = _interval(found.low, found.high, signed=True)
    return (
        name,
        f"{found.difference:+.2%}",
        interval,
        f"{found.p:.3g}",
        f"{pair.corrected:.3g}",
        verdict,
        percent(found.detectable),
    )


def _interval(low: float | None, high: float | None, signed: bool = False) -> str:
    if low is None or high is None:
        return "-"
    return f"{low:+.2%} to {high:+.2%}" if signed else f"{low:.2%} to {high:.2%}"


def reproduce(
    name: Annotated[str, typer.Argument(help="A recipe with published figures, a folder such as relabel, or all.")],
    seeds: Annotated[
        str | None, typer.Option(help="Runs of each, or from:to; default 5, or 2 with --quick.", metavar="N|FROM:TO")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few epochs only, and the table says so.")] = False,
    minutes: Annotated[float, typer.Option(help="End each training after so many; 0: never.", min=0)] = 0.0,
    device: Device = "auto",
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Train published experiments over seeds, as published and honestly, and set the figures side by side."""
    from cifarlab.experiments import reproduce, results

    chosen = reproduce.seeds_of(seeds) if seeds else None
    records = reproduce.reproduce(name, chosen, quick=quick, minutes=minutes, device=device, runs=runs)
    folder = reproduce.write(records, name, quick=quick, runs=runs)
    if json:
        rows, tested = results.rows(records), results.tested(records)
        as_json({"folder": str(folder), "rows": list(map(asdict, rows)), "tested": list(map(asdict, tested))})
        return
    for found in results.tables(records):
        table(found.titles, found.cells, found.titles[1:])
        if found.caption:
            typer.echo(found.caption)
    if quick:
        whole = "Without --quick and --minutes" if minutes else "Without --quick"
        typer.echo(f"Few epochs: the published figures are after more. {whole} the runs go all the way.")
    typer.echo(f"table, pictures and records: {folder}")


def study(
    chosen: Annotated[
        str, typer.Argument(help="A recipe's name or file, or a study's TOML file.", metavar="RECIPE|FILE.toml")
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option(help="Values of a key; repeatable. A range 0:5 is 0 to 4.", metavar="KEY=VALUE,VALUE"),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key in all runs; repeatable.", metavar="KEY=VALUE")
    ] = None,
    data: Data = None,
    name: Annotated[str | None, typer.Option(help="Of the study's folder; default: recipe and varied keys.")] = None,
    runs: Runs = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at once; default: 1, in a cluster as many as fit.", min=1)
    ] = None,
    retries: Annotated[int, typer.Option(help="How often a failed run is tried again.", min=0)] = 1,
    metric: Annotated[
        str, typer.Option(help="What tables and pictures are about, such as test_accuracy.")
    ] = "validation_accuracy",
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="local: this machine; ray: a cluster.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; default: the one that is there.")] = None,
    cpus: Annotated[float, typer.Option(help="Cores of a run in a cluster.", min=0)] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs of a run in a cluster.", min=0)] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs, and end.")] = False,
    json: AsJson = False,
) -> None:
    """Train a recipe with every combination of some values; the same command goes on with what is not finished."""
    from cifarlab.errors import CifarlabError
    from cifarlab.experiments.study import grid
    from cifarlab.experiments.study.sweep import plan, run_study
    from cifarlab.recipes import parse_settings

    planned = grid.define(chosen, parse_settings(with_data(set_, data)), grid.parse_varied(vary or []), name)
    asked: dict[str, Any] = {"runs": runs, "engine": engine, "workers": workers, "device": device}
    asked |= {"metric": metric, "address": address}
    if dry_run:
        _print_planned(plan(planned, **asked), json)
        return
    found = run_study(planned, retries=retries, cpus=cpus, gpus=gpus, **asked)
    if json:
        as_json(found.record())
    else:
        _print_study(found)
    if found.failed:
        raise CifarlabError(
            f"{len(found.failed)} of {len(found.rows)} runs failed, which the same command tries again; reasons are in "
            f"{found.path / 'results.csv'}"
        )


def _print_planned(planned: Study, json: bool) -> None:

    if json:
        runs = [{"run": member.name, **member.values} for member in planned.members]
        as_json({"study": planned.name, "runs": runs})
        return
    from cifarlab.recipes.differences import value_text

    rows = [(member.name, *map(value_text, member.values.values())) for member in planned.members]
    table(("run", *planned.varied), rows)


def _print_study(found: Outcome) -> None:
    from cifarlab.experiments.study.outcome import METRICS, is_share

    def shown(value: float | None) -> str:
        return percent(value) if value is None or is_share(found.metric) else f"{value:.4g}"

    name = found.metric.replace("_", " ").removesuffix(" accuracy")  # short, so that names of settings have room
    titles = ("setting", "runs", name, "deviation", "95 % interval", *([] if name == "test" else ["test"]))
    rows = [
        (
            setting.name,
            str(len(setting.runs)),
            shown(setting.estimate.mean),
            shown(setting.estimate.deviation),
            " to ".join(map(shown, (setting.estimate.low, setting.estimate.high))) if setting.estimate.n > 1 else "-",
            percent(setting.test_accuracy.mean),
        )
        for setting in found.settings
    ]
    table(titles, [row[: len(titles)] for row in rows], titles[1:])
    for row in found.failed:
        typer.echo(f"{row['run']}: failed: {row['reason']}")
    if exploded := [f"{row['run']} ({row['validation_loss']:.1e})" for row in found.exploded]:
        more = f" and {len(exploded) - 3} more" if len(exploded) > 3 else ""
        typer.echo(f"loss exploded: {', '.join(exploded[:3])}{more}; a lower learning rate may help")
    if found.comparison is not None:
        typer.echo("\nOn the test images:")
        _print_pairs(found.comparison)
    typer.echo(f"\nbest by {METRICS[found.metric]} first; test: accuracy on test images; folder: {found.path}")
    if "test images" in METRICS[found.metric]:
        typer.echo("The test images chose the first, whose figure on them is then higher than new images would give.")


COMMANDS = (compare, reproduce, study)
