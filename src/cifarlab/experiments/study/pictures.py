"""Pictures of a study's outcome. The keys that it varies decide which ones there are."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure

from cifarlab import figures, files
from cifarlab.experiments.study.definition import Value
from cifarlab.experiments.study.outcome import METRICS, Outcome, Setting, is_fraction
from cifarlab.figures import studies
from cifarlab.recipes.differences import value_text

MOST_LINES = 6  # of one picture; more cannot be told apart
MOST_INTERVALS = 40  # of one picture, one below the other


def draw(outcome: Outcome) -> dict[str, Figure]:
    """Draw the pictures that a study's keys allow, by the stem of their files; none before a run is finished.

    - `by-KEY` for each numeric key: the metric by its values, with a line for each combination of the other keys.
    - `map` for two keys: the metric as a heat map.
    - `parallel` for more than two keys: parallel coordinates.
    - `settings`, if the metric is a fraction and there are at most `MOST_INTERVALS` settings: means with intervals.
    """
    study, settings, label = outcome.study, outcome.settings, METRICS[outcome.metric]
    keys, percent = study.keys, is_fraction(outcome.metric)
    drawn: dict[str, Figure] = {}
    if not settings:
        return drawn
    for key in keys:
        if len(numbers_of(study.varied[key])) > 1:
            lines, note = lines_by_value(outcome, key)
            stem = f"by-{key.replace('.', '-').replace('/', '-')}"
            drawn[stem] = studies.lines(lines, key, label, percent=percent, note=note)
    if len(keys) == 2:
        names = [[value_text(value) for value in study.varied[key]] for key in keys]
        means = means_by_values(outcome, *keys)
        drawn["map"] = studies.heat_map(means, (keys[0], keys[1]), names, label, percent=percent)
    if len(keys) > 2:
        rows = [[setting.values[key] for key in keys] for setting in settings]
        drawn["parallel"] = studies.parallel(
            keys, rows, [setting.estimate.mean for setting in settings], label, percent=percent
        )
    if percent and len(settings) <= MOST_INTERVALS:
        estimates = [setting.estimate for setting in settings]
        title = f"{study.name}: {label}"
        drawn["settings"] = figures.intervals([setting.name for setting in settings], estimates, {}, title)
    return drawn


def write_pictures(outcome: Outcome) -> None:
    """Write the pictures as SVG and PNG into `figures/` in the study's folder."""
    files.make_folder(outcome.path / "figures")
    for stem, figure in draw(outcome).items():
        for kind in ("svg", "png"):
            files.write_bytes(outcome.path / "figures" / f"{stem}.{kind}", figures.to_bytes(figure, kind))


def numbers_of(values: Sequence[Value]) -> list[float]:
    """Return the values as sorted numbers; an empty list if one of them is not a number."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return sorted(numbers) if len(numbers) == len(values) else []


def lines_by_value(outcome: Outcome, key: str) -> tuple[dict[str, list[tuple[float, list[float]]]], str]:
    """Return the metric by the values of a numeric key, with a line for each combination of the other keys.

    If there are more than `MOST_LINES` combinations, only the best ones get a line. A mean over all of them would mix
    the effects of the other keys into the effect of this one.

    Returns:
        For each line its points, by rising value, each with the metric of its runs; and a note on what is left out.
    """
    other_keys = [other for other in outcome.study.keys if other != key]
    names = {setting.name: _name_without(setting, other_keys) for setting in outcome.settings}
    combinations = list(dict.fromkeys(names.values()))  # the best first, as the settings are
    note = ""
    if len(combinations) > MOST_LINES:
        note = f"the {MOST_LINES} best of {len(combinations)} combinations of the other keys"
    lines: dict[str, dict[float, list[float]]] = {name: {} for name in combinations[:MOST_LINES]}
    for value in numbers_of(outcome.study.varied[key]):
        for setting in outcome.settings:
            if setting.values[key] == value and names[setting.name] in lines:
                lines[names[setting.name]].setdefault(value, []).extend(setting.metric_values)
    return {name: list(points.items()) for name, points in lines.items()}, note


def _name_without(setting: Setting, keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={value_text(setting.values[key])}" for key in keys)


def means_by_values(outcome: Outcome, down: str, across: str) -> Float64[np.ndarray, "down across"]:
    """Return the mean of the metric by the values of two keys; not a number where no run is finished."""
    values = [outcome.study.varied[key] for key in (down, across)]
    means = np.full([len(several) for several in values], np.nan)
    for setting in outcome.settings:
        cell = tuple(several.index(setting.values[key]) for several, key in zip(values, (down, across), strict=True))
        means[cell] = setting.estimate.mean
    return means
