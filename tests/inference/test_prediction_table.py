"""The table that `predict --out` writes: its rows, going on after a kill, and the tables that it refuses."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import cifarlab
from cifarlab import Recipe, Run
from cifarlab.data.image_files import read_image
from cifarlab.recipes import Resize
from conftest import answer, make_images, run_cifarlab
from small_trainings import train_only

FIXED = ["image", "label", "probability", "sure", "error", "network"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with 13 pictures in two folders, of which one is damaged."""
    make_images(tmp_path / "photos", {"a": 11, "b[1]": 2})
    (tmp_path / "photos" / "a" / "1.png").write_bytes(b"damaged")
    return tmp_path / "photos"


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_has_a_row(trained_run: Run, photos: Path, tmp_path: Path) -> None:
    words = ("predict", trained_run.path, "photos", "photos/b[1]", "photos/a/*.png", "--out", "table.csv")
    ended = run_cifarlab(tmp_path, *words, status=1)
    assert "1 of 13 files cannot be read as images: see the column 'error' of table.csv" in ended.stderr
    rows, classes = rows_of(tmp_path / "table.csv"), trained_run.classifier.classes
    assert list(rows[0]) == [*FIXED, *classes]
    assert [row["image"] for row in rows[:4]] == [f"photos/a/{number}.png" for number in range(4)]
    assert len(rows) == len({row["image"] for row in rows}) == 13
    damaged = rows.pop(1)
    assert damaged["error"].startswith("not an image") and not damaged["label"] + damaged["probability"]
    for row, expected in zip(rows, trained_run.predict([row["image"] for row in rows_in(rows, tmp_path)]), strict=True):
        assert row["label"] == expected.label and not row["error"]
        assert [float(row[name]) for name in classes] == pytest.approx(
            [expected.probabilities[name] for name in classes], abs=2e-6
        )
        assert row["probability"] == row[expected.label]
        assert row["sure"] == str(expected.probability >= 0.5).lower()
    not_sure = [row["sure"] for row in rows].count("false")
    assert ended.stdout == f"table.csv: 12 images, {not_sure} not sure\n"
    assert "a table of predictions" in run_cifarlab(tmp_path, "identify", "table.csv").stdout


def rows_in(rows: list[dict[str, str]], folder: Path) -> list[dict[str, str]]:
    return [row | {"image": str(folder / row["image"])} for row in rows]


def test_the_limit_of_sure_answers_can_be_chosen(trained_run: Run, photos: Path, tmp_path: Path) -> None:
    for sure, count in (("0", 0), ("1", 2)):
        words = ("predict", trained_run.path, "photos/b[1]", "--sure", sure, "--out", f"{sure}.csv", "--json")
        summary = answer(run_cifarlab(tmp_path, *words))
        assert summary == {
            "schema": 1,
            "path": f"{sure}.csv",
            "images": 2,
            "not_sure": count,
            "unreadable": 0,
            "continued": 0,
        }


def test_the_same_command_goes_on_after_the_rows_that_are_there(
    trained_run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("predict", trained_run.path, "photos", "--out", "photos/table.csv")
    run_cifarlab(tmp_path, *words, status=1)
    table = photos / "table.csv"
    whole = table.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (lines[:1], lines[:5], [*lines[:5], lines[5][:-1]], [*lines[:5], b'"photos']):
        table.write_bytes(b"".join(kept))
        ended = run_cifarlab(tmp_path, *words, status=1)
        assert table.read_bytes() == whole
        there = min(len(kept), 5) - 1
        assert ended.stdout.endswith(f", {there} of the rows were there\n" if there else "not sure\n")
    Image.new("RGB", (9, 9)).save(photos / "0.png")  # comes first in the folder
    read: list[Path] = []

    def recorded(path: Path, size: int, resize: Resize) -> np.ndarray:
        read.append(path)
        return read_image(path, size, resize=resize)

    monkeypatch.setattr("cifarlab.inference.prediction_table.read_image", recorded)
    ended = run_cifarlab(tmp_path, *words, status=1)
    assert [path.name for path in read] == ["0.png"] and "13 images" in ended.stdout
    assert table.read_bytes().startswith(whole) and len(rows_of(table)) == 14
    monkeypatch.undo()
    run_cifarlab(tmp_path, *words, "--force", status=1)
    assert rows_of(table)[0]["image"] == "photos/0.png" and len(rows_of(table)) == 14


def test_other_tables_and_files_are_refused_and_stay(
    trained_run: Run, photos: Path, small: Recipe, tmp_path: Path
) -> None:
    words: list[str | Path] = ["photos/b[1]", "--out", "table.csv"]
    run_cifarlab(tmp_path, "predict", trained_run.path, *words)
    other = train_only(small.changed({"epochs": 1, "drop": ["9"]}), tmp_path)
    own = (tmp_path / "table.csv").read_text()
    cut = "".join(f"{line}\n" for line in own.splitlines()[:-1])
    cases: list[tuple[str, Path, list[str], str]] = [
        (own, trained_run.path, ["--sure", "0.9"], "has answers of another network, or with another --tta or --sure"),
        (own, trained_run.path, ["--tta"], "has answers of another network"),
        (own, other.path, [], "has the answers of a network with other classes"),
        ("my notes\n", trained_run.path, [], "is not a table of predictions"),
        ("", trained_run.path, [], "is not a table of predictions"),
        (cut + "note\n", trained_run.path, [], "line 3 has 1 cells, not 16"),
        (own + "x" * 200_000 + "\n", trained_run.path, [], "is not a table of predictions"),
    ]
    for text, network, change, reason in cases:
        (tmp_path / "table.csv").write_text(text)
        changed = ["predict", network, *words, *change]
        error = run_cifarlab(tmp_path, *changed, status=2).stderr
        assert reason in error and "or replace the file with --force" in error
        assert (tmp_path / "table.csv").read_text() == text
        run_cifarlab(tmp_path, *changed, "--force")
        assert len(rows_of(tmp_path / "table.csv")) == 2


def test_wrong_input_writes_nothing(trained_run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for words, reason in (
        (["photo"], "there is no image or folder 'photo'"),
        (["photos", "x*.png"], "there is no image or folder 'x*.png'"),
        (["none"], "there is no image in 'none'"),
        (["photos", "--explain", "why"], "--out is for any number of images and --explain draws a figure of each"),
    ):
        error = run_cifarlab(tmp_path, "predict", trained_run.path, *words, "--out", "t.csv", status=2).stderr
        assert reason in error and not (tmp_path / "t.csv").exists()
    words = ["photos/a/1.png", "--out", "t.csv"]
    error = run_cifarlab(tmp_path, "predict", trained_run.path, *words, status=2).stderr
    assert "1 of 1 files cannot be read as images" in error
    (tmp_path / "linked").symlink_to("photos")
    words = ["photos/a", "--force", "--out", "linked/a/0.png"]
    error = run_cifarlab(tmp_path, "predict", trained_run.path, *words, status=2).stderr
    assert "is one of the images to classify" in error
    assert trained_run.predict(photos / "a" / "0.png")


def test_onnx_files_have_their_own_tables(trained_run: Run, photos: Path, tmp_path: Path) -> None:
    model = onnx.load(cifarlab.export(trained_run, tmp_path / "one.onnx").path)
    weights = next(tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 1000)
    weights.raw_data = bytes(len(weights.raw_data))
    onnx.save(model, tmp_path / "two.onnx")
    words = ["photos/b[1]", "--out", "table.csv"]
    run_cifarlab(tmp_path, "predict", "one.onnx", *words)
    run_cifarlab(tmp_path, "predict", "one.onnx", *words)
    assert "another network" in run_cifarlab(tmp_path, "predict", "two.onnx", *words, status=2).stderr


def many_photos(folder: Path, count: int) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(folder / "0.png")
    for number in range(1, count):
        os.link(folder / "0.png", folder / f"{number}.png")


@pytest.mark.slow
def test_a_kill_loses_at_most_a_batch_and_two_writers_do_not_mix(trained_run: Run, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    many_photos(tmp_path / "many", 3_000)
    shutil.copytree(trained_run.path, tmp_path / "run")
    command = [sys.executable, "-m", "cifarlab", "predict", "run", "many", "--out", "table.csv"]
    table = tmp_path / "table.csv"
    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)):
        before = len(table.read_bytes().splitlines()) if table.exists() else 0
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            deadline = time.monotonic() + 60
            while not table.exists() or len(table.read_bytes().splitlines()) <= max(before, 1):
                assert time.monotonic() < deadline and child.poll() is None
                time.sleep(0.01)
            if number == signal.SIGKILL:
                error = run_cifarlab(tmp_path, *command[3:], status=2).stderr
                assert "another process is writing it" in error
            child.send_signal(number)
            assert child.wait(60) == status
            assert number != signal.SIGINT or "the same command continues table.csv" in child.communicate()[1]
        rows = rows_of(table)
        assert before <= len(rows) < 3_000
    run_cifarlab(tmp_path, *command[3:])
    rows = rows_of(table)
    assert [row["image"] for row in rows] == [f"many/{number}.png" for number in range(3_000)]
    assert len({row["probability"] for row in rows}) == 1
