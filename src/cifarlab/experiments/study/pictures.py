"""Pictures of a study's outcome. The keys that it varies decide which ones there are."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure

from cifarlab import figures, files
from cifarlab.experiments.study.definition import Value
from cifarlab.experiments.study.outcome import METRICS, Outcome, is_fraction, values_text
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
    estimates = [setting.estimate for setting in settings]
    drawn: dict[str, Figure] = {}
    if not settings:
        return drawn
    for key in keys:
        if len(numbers_of(study.varied[key])) > 1:
            lines, note = lines_by_value(outcome, key)
            stem = f"by-{key.replace('.', '-').replace('/', '-')}"
            drawn[stem] = studies.lines(lines, key, label, percent=percent, note=note)
    if len(keys) == 2:
        values = {key: list(map(value_text, study.varied[key])) for key in keys}
        drawn["map"] = studies.heat_map(means_by_values(outcome), values, label, percent=percent)
    if len(keys) > 2:
        rows = [[setting.values[key] for key in keys] for setting in settings]
        means = [estimate.mean for estimate in estimates]
        drawn["parallel"] = studies.parallel(keys, rows, means, label, percent=percent)
    if percent and len(settings) <= MOST_INTERVALS:
        names = [setting.name for setting in settings]
        drawn["settings"] = figures.intervals(names, estimates, {}, f"{study.name}: {label}")
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
    """Return lines of a metric by the values of a numeric key, in rising order, and a note on what is left out.

    There is a line for each of the `MOST_LINES` best combinations of the other keys, and a point has the metric of each
    run. A mean over all combinations would mix the effects of the other keys into the effect of this one.
    """
    lines: dict[str, list[tuple[float, list[float]]]] = {}
    for setting in outcome.settings:  # the best first
        others = values_text({other: value for other, value in setting.values.items() if other != key})
        (value,) = numbers_of([setting.values[key]])
        lines.setdefault(others, []).append((value, setting.metric_values))
    left_out = len(lines) > MOST_LINES
    note = f"the {MOST_LINES} best of {len(lines)} combinations of the other keys" if left_out else ""
    return {name: sorted(lines[name]) for name in list(lines)[:MOST_LINES]}, note


def means_by_values(outcome: Outcome) -> Float64[np.ndarray, "down across"]:
    """Return the mean of the metric by the values of two keys; not a number where no run is finished."""
    varied = {key: outcome.study.varied[key] for key in outcome.study.keys}
    means = np.full(list(map(len, varied.values())), np.nan)
    for setting in outcome.settings:
        means[tuple(values.index(setting.values[key]) for key, values in varied.items())] = setting.estimate.mean
    return means
