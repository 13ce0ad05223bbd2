"""Write a report to hand in, and check one against its runs.

The page is a pure function of the runs, the student's name, the question and the chosen figures. So the check writes
the page again from the runs, whose files `run.json` knows by their checksums, and compares all of it.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Annotated

from pydantic import BaseModel, Field

from cifarlab import figures
from cifarlab.errors import UsageError, nearest, validated
from cifarlab.figures import Figure
from cifarlab.report.comparing import compare_for_page
from cifarlab.report.rendering import data_url, render
from cifarlab.report.summary import summarise
from cifarlab.runs.folder import RESULT_FILES, RunFolder
from cifarlab.statistics import metrics

LONGEST_NAME, LONGEST_QUESTION = 100, 2_000  # letters
_FACTS = re.compile(r'<script type="application/json" id="facts">(.*?)</script>', re.DOTALL)


class Facts(BaseModel, frozen=True):
    """What a report to hand in was made of, as the page keeps it."""

    student: str
    question: str
    figures: tuple[str, ...]
    runs: Annotated[dict[str, dict[str, str]], Field(min_length=1)]  # SHA-256 of each file of results, for each run
    cifarlab: str  # versions of the programs that drew the page
    matplotlib: str


def _confusion(run: RunFolder) -> Figure:
    assert run.predictions is not None
    classes, (logits, labels) = run.record.data.classes, run.predictions
    predictions = logits.argmax(1)
    title = f"{run.name}: test accuracy {metrics.accuracy(labels, predictions):.2%}"
    return figures.confusion_matrix(metrics.confusion_matrix(labels, predictions, len(classes)), classes, title)


def _per_class(run: RunFolder) -> Figure:
    assert run.predictions is not None
    classes, (logits, labels) = run.record.data.classes, run.predictions
    rows = metrics.per_class(labels, logits.argmax(1), classes)
    return figures.per_class(classes, [row.precision for row in rows], [row.recall for row in rows])


FIGURES: Mapping[str, tuple[str, Callable[[RunFolder], Figure]]] = {
    "curves": ("Loss and accuracy by epoch", lambda run: figures.learning_curves(run.columns, run.held_out)),
    "confusion": ("Confusion matrix of the test images", _confusion),
    "per-class": ("Precision and recall of each class", _per_class),
}


def submission(runs: Sequence[RunFolder], student: str, question: str, chosen: Sequence[str]) -> str:
    """Return the page of a report to hand in.

    Raises:
        UsageError: a run is not finished, its files were changed, or a name, question or figure is not possible.
    """
    student, question = " ".join(student.split()), question.strip()
    for option, text, longest in (("--student", student, LONGEST_NAME), ("--question", question, LONGEST_QUESTION)):
        if not 1 <= len(text) <= longest:
            raise UsageError(f"{option} must have 1 to {longest:,} letters, got {len(text):,}")
    for name in chosen:
        if name not in FIGURES:
            near = nearest(name, tuple(FIGURES))
            raise UsageError(
                f"--figure must be one of {', '.join(FIGURES)}, got {name!r}{f': {near}?' if near else ''}"
            )
    sums = {run.name: _sums(run) for run in runs}
    facts = Facts(
        student=student,
        question=question,
        figures=tuple(dict.fromkeys(chosen)),
        runs=sums,
        cifarlab=version("cifarlab"),
        matplotlib=version("matplotlib"),
    )
    overview, comparison, problem = compare_for_page(runs)
    pictures = [
        (f"{run.name}: {FIGURES[name][0]}", _picture(FIGURES[name][1](run))) for run in runs for name in facts.figures
    ]
    return render(
        "submission.html",
        facts=facts,
        json=json.dumps(facts.model_dump(), ensure_ascii=True).replace("<", "\\u003c"),
        runs=[summarise(run) for run in runs],
        pictures=[(alt, _picture(figure)) for alt, figure in overview.items()] + pictures,
        comparison=comparison,
        problem=problem,
    )


def facts_of(page: str, place: str) -> Facts:
    """Return the facts in the page of a report to hand in; raise UsageError for any other page."""
    if not (found := _FACTS.search(page)):
        how = "Write one with: cifarlab report RUN --for submission --student NAME --question TEXT --out FILE"
        raise UsageError(f"{place} is no report to hand in. {how}")
    return validated(Facts, found[1].encode(), f"{place} is damaged")


def differences(page: str, facts: Facts, runs: Sequence[RunFolder]) -> list[str]:
    """Return what in a page does not come from the runs, a sentence each; none if all of it does."""
    wrong = []
    for run in runs:
        sums = _sums(run)
        names = {name for name in {*sums, *facts.runs[run.name]} if sums.get(name) != facts.runs[run.name].get(name)}
        wrong += [f"{run.name}: the page was made of another {name}" for name in sorted(names)]
    if wrong or submission(runs, facts.student, facts.question, facts.figures) == page:
        return wrong
    versions = (facts.cifarlab, facts.matplotlib)
    if versions != (version("cifarlab"), version("matplotlib")):
        made = f"cifarlab {versions[0]} with matplotlib {versions[1]} made it"
        return [f"the page cannot be compared, because {made}; its runs are the right ones. Use these versions."]
    return ["the text or figures were changed after the page was written; its runs are the right ones"]


def _sums(run: RunFolder) -> dict[str, str]:
    """Return the checksums of a finished run's results, after comparing its files with them."""
    if run.status != "finished" or run.predictions is None:
        raise UsageError(f"the run {run.name!r} is not finished ({run.status}). Finish it: cifarlab resume {run.path}")
    for name in RESULT_FILES:
        run.check_sum(name)
    if not run.record.sums:
        raise UsageError(f"the run {run.name!r} has no checksums, because an older version trained it. Train it again.")
    logits, labels = run.predictions
    accuracy = metrics.accuracy(labels, logits.argmax(1))
    if not math.isclose(accuracy, recorded := run.results["test_accuracy"], abs_tol=1e-6):
        raise UsageError(
            f"the run {run.name!r} has a test accuracy of {recorded:.2%} in run.json, but {accuracy:.2%} by its "
            "predictions.npz. One of them was changed."
        )
    return {**run.record.sums, "recipe, seed and data": run.record.find_identity()}


def _picture(figure: Figure) -> str:
    return data_url(figures.to_bytes(figure, "svg"), "svg")
