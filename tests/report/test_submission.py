"""Reports to hand in: what they have, and what the check of a report finds."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import cifarlab
from cifarlab import Run, api
from cifarlab import recipe as load_recipe
from cifarlab.errors import UsageError
from conftest import Cli

QUESTION = "Does a smaller batch help? </script><b>5 < 6</b>"


@pytest.fixture
def runs(trained_run: Run, tmp_path: Path) -> Path:
    """Two finished runs."""
    folder = tmp_path / "runs"
    shutil.copytree(trained_run.path, folder / "a")
    recipe = load_recipe("lenet5", dataset="digits", epochs=2, batch_size=64, seed=1)
    cifarlab.train(recipe, runs=folder, name="b", quiet=True)
    return folder


@pytest.fixture
def page(runs: Path, tmp_path: Path) -> Path:
    out = tmp_path / "anna.html"
    return api.write_submission(["a", "b"], out, student="Anna Ö.", question=QUESTION, runs=runs)


def test_a_page_has_name_question_runs_and_checksums(page: Path, runs: Path) -> None:
    text, run = page.read_text(encoding="utf-8"), Run(runs / "a")
    assert "Anna Ö." in text and "5 &lt; 6" in text and "<b>5" not in text
    assert f"{run.results['test_accuracy']:.2%}" in text and run.record.sums["predictions.npz"] in text
    assert text.count("<figure") == 5  # curves of both together, and two figures of each
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert api.verify(page, runs=runs) == []


@pytest.mark.parametrize(("before", "after"), [("Anna", "Arno"), ("%</td>", "9%</td>"), ("base64,PD", "base64,QD")])
def test_a_changed_page_is_found(page: Path, runs: Path, before: str, after: str) -> None:
    text = page.read_text(encoding="utf-8")
    assert before in text
    page.write_text(text.replace(before, after, 1), encoding="utf-8")
    (wrong,) = api.verify(page, runs=runs)
    assert "changed after the page was written" in wrong


def test_other_runs_and_changed_runs_are_found(page: Path, runs: Path) -> None:
    (runs / "a").rename(runs / "c")
    (runs / "b").rename(runs / "a")
    assert api.verify(page, ["c", "a"], runs=runs) == []
    wrong = api.verify(page, ["a", "c"], runs=runs)
    assert any("a: the page was made of another predictions.npz" in sentence for sentence in wrong)
    metrics = runs / "a" / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("0.", "1.", 1))
    with pytest.raises(UsageError, match="SHA-256 differs"):
        api.verify(page, ["c", "a"], runs=runs)


def test_a_forged_accuracy_is_found(page: Path, runs: Path) -> None:
    path = runs / "a" / "run.json"
    record = json.loads(path.read_text())
    record["results"]["test_accuracy"] = 0.999
    del record["sums"]["results"]  # as older versions wrote it
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"99\.90% in run\.json, but"):
        api.verify(page, runs=runs)


@pytest.mark.parametrize("name", ["/etc", "../a", "~root", ".hidden", "", "a//b"])
def test_a_page_cannot_choose_a_place(page: Path, runs: Path, name: str) -> None:
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace('"runs": {"a": ', f'"runs": {{"{name}": '), encoding="utf-8")
    with pytest.raises(UsageError, match="no plain name"):
        api.verify(page, runs=runs)


def test_bad_input_is_refused(page: Path, runs: Path, tmp_path: Path) -> None:
    def write(**changes: Any) -> None:
        given = {"student": "Anna", "question": "Why?", "chosen": ["curves"]} | changes
        api.write_submission(["a"], tmp_path / "new.html", runs=runs, **given)

    for changes, reason in (
        ({"student": " "}, "--student must have 1 to 100 letters, got 0"),
        ({"question": "a" * 2001}, "--question must have"),
        ({"chosen": ["curve"]}, "got 'curve': curves\\?"),
    ):
        with pytest.raises(UsageError, match=reason):
            write(**changes)
    assert not (tmp_path / "new.html").exists()
    with pytest.raises(UsageError, match="no report to hand in"):
        api.verify(runs / "a" / "report.html", runs=runs)
    with pytest.raises(UsageError, match="has 2 runs"):
        api.verify(page, ["a"], runs=runs)
    facts = re.sub(r'id="facts">.*?</script>', 'id="facts">{"student": 1}</script>', page.read_text(encoding="utf-8"))
    page.write_text(facts, encoding="utf-8")
    with pytest.raises(UsageError, match="is damaged"):
        api.verify(page, runs=runs)


def test_the_commands_hand_in_and_verify(cli: Cli, runs: Path, tmp_path: Path) -> None:
    out, common = tmp_path / "page.html", ["--runs", str(runs)]
    words = ["report", "a", "--for", "submission", "--student", "Anna", "--out", str(out), *common]
    refused = cli(*words, status=2)
    assert refused.returncode == 2 and "needs --question" in refused.stderr
    assert cli(*words, "--question", "Why?", "--figure", "per-class").returncode == 0
    checked = cli("verify", str(out), *common, "--json")
    assert checked.returncode == 0 and json.loads(checked.stdout)["matches"] is True
    out.write_text(out.read_text(encoding="utf-8").replace("Why?", "Who?", 1), encoding="utf-8")
    wrong = cli("verify", str(out), *common, status=1)
    assert wrong.returncode == 1 and "does not match its runs" in wrong.stderr
    cli("report", "a", "--student", "Anna", *common, status=2)
