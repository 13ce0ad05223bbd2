"""Nothing is lost: damage is noticed, and every part of a checkpoint is needed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifarlab import Data, api, files
from cifarlab.data.catalogue import load_parts
from cifarlab.data.dataset import Parts
from cifarlab.errors import Interrupted, UsageError
from cifarlab.inference.classifier import Classifier, make_classifier
from cifarlab.inference.preprocessing import Preprocess
from cifarlab.inference.weights_file import load_weights, save_weights
from cifarlab.recipes import Recipe
from cifarlab.recipes import load as load_recipe
from cifarlab.runs.folder import RunFolder
from cifarlab.training import loop, session
from cifarlab.training.preparation import Prepared, new_record, prepare_parts
from cifarlab.training.session import Session, parse_interval
from cifarlab.training.state import Training

CPU = torch.device("cpu")
STOP = (2, 3)  # epoch and step, counted from 0, before which the trainings here are cut


@pytest.fixture(scope="module")
def source(digits: Data) -> Classifier:
    """Weights to start from, whose normalisation comes from other images."""
    classifier = make_classifier("lenet5", {}, digits.classes, 32, "standard")
    classifier.preprocess.fit(digits.train.images[:20])
    return classifier


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Uses everything that has a state."""
    return load_recipe("lenet5").changed(
        {
            "dataset": "few",
            "epochs": 5,
            "batch_size": 32,
            "normalize": "standard",
            "momentum": 0.9,
            "ema": 0.9,
            "skip_easy": 0.3,
            "augment.crop": 2,
            "train_on": "split",
            "validate_on": "validation",
        }
    )


@pytest.fixture(scope="module")
def parts(digits: Data, recipe: Recipe) -> Parts:
    few = Data("few", digits.train.select(np.arange(240)), digits.test, "0" * 64, "memory", "")
    return load_parts(recipe, data=few)[1]


def prepared(recipe: Recipe, parts: Parts, source: Classifier | None = None) -> Prepared:
    data = Data("few", parts.train, parts.test, "0" * 64, "memory", "")
    return prepare_parts(recipe, data, parts, CPU, source=source)


@pytest.fixture(autouse=True, scope="module")
def looking_all_the_time() -> Iterator[None]:
    """Stop at the very step at which that is asked for."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session, "SECONDS_BETWEEN_LOOKS", 0.0)
        yield


def train(recipe: Recipe, parts: Parts, run: RunFolder, source: Classifier | None = None) -> None:
    loop.fit(prepared(recipe, parts, source), Session(run, quiet=True))


def new(path: Path, recipe: Recipe, parts: Parts, **changes: Any) -> RunFolder:
    run = RunFolder.create(path, new_record(prepared(recipe, parts)))
    run.update(**changes)
    return run


def cut(run: RunFolder, recipe: Recipe, parts: Parts, source: Classifier | None, stop: tuple[int, int] = STOP) -> None:
    """Goes on with a training up to some epoch and step."""
    real = loop.train_step

    def step(at: Training, batch: Any) -> None:
        if (at.epoch, batch.step) == stop:
            run.ask_to_stop()
        real(at, batch)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(loop, "train_step", step)
        train(recipe, parts, run, source)


def outcome(run: RunFolder) -> dict[str, np.ndarray]:
    """Everything of a run that is the same every time."""
    clocks = ("train_seconds", "validation_seconds", "images_per_second")
    rows = [[value for key, value in asdict(row).items() if key not in clocks] for row in run.history]
    found = {"history": np.array(rows), "confusion": run.confusion, "predicted": run.predicted}
    for name in ("best", "last"):
        state = load_weights(run.path / f"{name}.safetensors")
        for module in (state.network, state.preprocess):
            found |= {f"{name}.{key}": value.numpy() for key, value in module.state_dict().items()}
    return found


def same(one: RunFolder, other: RunFolder) -> bool:
    ours, theirs = outcome(one), outcome(other)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture(scope="module")
def begun(
    recipe: Recipe, parts: Parts, source: Classifier, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunFolder, dict[str, Any], dict[str, Any]]]:
    """An undisturbed run, and two states of one that was cut: before its first step, and at `STOP`."""
    folder = tmp_path_factory.mktemp("runs")
    whole, early, late = (new(folder / name, recipe, parts) for name in ("whole", "early", "late"))
    train(recipe, parts, whole, source)
    early.ask_to_stop()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunFolder, "ask_to_stop", lambda *_: None)  # a beginning takes back what was asked before
        with pytest.raises(Interrupted):
            train(recipe, parts, early, source)
    cut(late, recipe, parts, source)
    states = [run.read_checkpoint() for run in (early, late)]
    assert states[0] is not None and states[1] is not None
    yield whole, states[0], states[1]


KEYS = (
    "network",
    "preprocess",
    "optimizer",
    "average",
    "epoch",
    "step",
    "seen",
    "loss_sum",
    "right",
    "losses",
    "kept",
    "history",
    "predicted",
)
"""All of a checkpoint but `scaler`, which only fp16 has, `seconds`, which are never the same, and `identity`."""


def resumed(path: Path, state: dict[str, Any], recipe: Recipe, parts: Parts) -> RunFolder:
    run = new(path, recipe, parts)
    run.write_checkpoint(state)
    train(recipe, parts, run)
    return run


def test_the_list_of_parts_is_whole(begun: Any) -> None:
    _, _, state = begun
    assert set(KEYS) | {"scaler", "seconds", "earlier_steps", "start", "identity"} == set(state)
    assert (state["epoch"], state["step"]) == (STOP[0], STOP[1] + 1)


def test_with_all_parts_the_bits_are_the_same(begun: Any, recipe: Recipe, parts: Parts, tmp_path: Path) -> None:
    whole, _, late = begun
    assert same(resumed(tmp_path / "a", late, recipe, parts), whole)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(stops=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=3, unique=True).map(sorted))
def test_wherever_it_is_cut_the_bits_are_the_same(
    stops: list[tuple[int, int]],
    begun: Any,
    recipe: Recipe,
    parts: Parts,
    source: Classifier,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    whole, _, _ = begun
    run = new(tmp_path_factory.mktemp("cut") / "a", recipe, parts)
    for number, stop in enumerate(stops):
        cut(run, recipe, parts, None if number else source, stop)
    train(recipe, parts, run)
    assert same(run, whole)


@pytest.mark.parametrize("key", KEYS)
def test_without_any_part_they_are_not(key: str, begun: Any, recipe: Recipe, parts: Parts, tmp_path: Path) -> None:
    """The part is as it was before the first step; a state so broken that it, or its history, is refused is as good."""
    whole, early, late = begun
    state = copy.deepcopy(late) | {key: copy.deepcopy(early[key])}
    if key == "preprocess":  # as a resume would fit it, which does not look at the source
        fitted = Preprocess("standard", 32)
        fitted.fit(parts.train.images)
        state[key] = fitted.state_dict()
    try:
        is_same = same(resumed(tmp_path / "a", state, recipe, parts), whole)
    except Exception:
        return
    assert not is_same


def test_the_scale_of_the_loss_is_kept(recipe: Recipe, parts: Parts, source: Classifier, tmp_path: Path) -> None:
    half = recipe.changed({"precision": "fp16"})
    run = new(tmp_path / "a", half, parts)
    cut(run, half, parts, source)
    state = run.read_checkpoint()
    assert state is not None and state["scaler"]["_growth_tracker"] > 0


def test_the_seconds_of_a_cut_epoch_are_kept(begun: Any, recipe: Recipe, parts: Parts, tmp_path: Path) -> None:
    _, _, late = begun
    run = resumed(tmp_path / "a", {**late, "seconds": 1000.0}, recipe, parts)
    assert run.history[STOP[0]].train_seconds > 1000


def test_checkpoints_come_by_steps_or_time(
    recipe: Recipe, parts: Parts, source: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, saved = RunFolder.write_checkpoint, []

    def note(self: RunFolder, state: Any) -> None:
        saved.append((state["epoch"], state["step"]))
        real(self, state)

    monkeypatch.setattr(RunFolder, "write_checkpoint", note)
    short = recipe.changed({"epochs": 2, "skip_easy": 0.0})
    for every, expected in (
        ("3", [(0, 0), (0, 3), (0, 6), (1, 0), (1, 3), (1, 6), (2, 0)]),
        ("1h", [(0, 0), (1, 0), (2, 0)]),
    ):
        saved.clear()
        train(short, parts, new(tmp_path / every, short, parts, checkpoint_every=every))
        assert saved == expected
    assert parse_interval("90s") == parse_interval("1.5m") == (math.inf, 90) and parse_interval("7") == (7, math.inf)
    for wrong in ("", "0", "-3", "1.5", "5 m", "3d", "9" * 30):
        with pytest.raises(UsageError, match="must be steps or a time, such as 500, 30s"):
            parse_interval(wrong)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    begun: Any, recipe: Recipe, parts: Parts, source: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _, _ = begun
    run = new(tmp_path / "a", recipe, parts, checkpoint_every="2")
    cut(run, recipe, parts, source)
    path = run.path / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    train(recipe, parts, run)
    assert "checkpoint.pt is damaged" in capsys.readouterr().err and "checkpoint.pt is damaged" in run.log
    assert same(run, whole)
    assert not (run.path / "checkpoint-older.pt").exists()  # it is finished


def flipped(content: bytes, draw: np.random.Generator) -> bytes:
    changed = bytearray(content)
    changed[draw.integers(len(content))] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_a_flipped_bit_in_a_checkpoint_is_noticed(begun: Any, recipe: Recipe, parts: Parts, tmp_path: Path) -> None:
    _, _, state = begun
    run = new(tmp_path / "a", recipe, parts)
    run.write_checkpoint(state)
    path = run.path / "checkpoint.pt"
    content, draw, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(200):
        path.write_bytes(flipped(content, draw))
        try:
            found = run.read_checkpoint()
        except Exception:
            refused += 1
            continue
        assert equal(found, state)  # it hit a byte that says nothing
    assert refused > 100


def test_a_flipped_bit_in_a_weights_file_is_noticed(source: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(source, path, {"dataset": "digits"})
    content, draw = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        files.write_bytes(path, flipped(content, draw), durable=False)
        with pytest.raises(UsageError):
            load_weights(path)


def test_the_file_that_is_replaced_can_be_kept(tmp_path: Path) -> None:
    path, older = tmp_path / "a", tmp_path / "older"
    for content in (b"1", b"2", b"3"):
        files.write_bytes(path, content, older=older)
    assert path.read_bytes() == b"3" and older.read_bytes() == b"2"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "older"]


def test_a_wrong_interval_makes_nothing(small: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--checkpoint-every must be"):
        api.train(small, runs=tmp_path / "runs", checkpoint_every="often", quiet=True)
    assert not (tmp_path / "runs").exists()
