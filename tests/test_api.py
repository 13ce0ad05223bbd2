"""The functions behind the commands: any network, any data, any target."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import cifarlab
from cifarlab import Data, Recipe, Run
from cifarlab.board.predictor_child import PredictionRequest, answer
from cifarlab.errors import CifarlabError, Pruned, UsageError
from cifarlab.training.preparation import prepare
from conftest import make_images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = cifarlab.recipe("lenet5", dataset="digits", epochs=2, batch_size=64, drop=["8"], merge={"7": "1"})
    return cifarlab.train(recipe, runs=tmp_path_factory.mktemp("runs"), name="a", quiet=True)


def test_the_package_offers_its_names_and_no_others() -> None:
    for name in cifarlab.__all__:
        assert getattr(cifarlab, name) is not None
    assert dir(cifarlab) == cifarlab.__all__
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        cifarlab.trian  # noqa: B018  # the error is the point


def test_importing_the_package_costs_nothing() -> None:
    code = "import sys, cifarlab; print(any(name in sys.modules for name in ('torch', 'numpy', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


class Flat(nn.Module):
    def __init__(self, classes: int, side: int = 4) -> None:
        super().__init__()
        inputs = 3 * (32 // side) ** 2
        self.layers = nn.Sequential(nn.AvgPool2d(side), nn.Flatten(), nn.Linear(inputs, classes))

    def forward(self, images):  # type: ignore[no-untyped-def]
        return self.layers(images)


def test_any_module_can_be_trained(tmp_path: Path, small: Recipe) -> None:
    plain = small.changed({"model_options": {}, "epochs": 4, "learning_rate": 0.05})
    trained = cifarlab.train(plain, model=Flat, runs=tmp_path, name="a", quiet=True)
    assert trained.results["test_accuracy"] > 0.7
    assert cifarlab.evaluate("a", runs=tmp_path).accuracy == trained.results["test_accuracy"]


def test_a_network_gets_the_options_that_the_user_set(small: Recipe) -> None:
    given = prepare(small.changed({"model_options": {"side": 8}}), model=Flat)
    assert given.recipe.model_options == {"side": 8} and given.parameters == 490
    assert prepare(small, model=Flat).recipe.model_options == {}  # those of the recipe are for its own network
    for settings, error in (
        ({"model_options": {"sied": 8}}, "did you mean 'side'"),
        ({"model_options.activation": "relu"}, "unknown option of .*Flat 'activation'"),
    ):
        with pytest.raises(UsageError, match=error):
            prepare(small.changed(settings), model=Flat)


def test_a_script_that_trains_its_network_is_loaded_as_it_was_and_does_not_train_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))
    (script := tmp_path / "script.py").write_text(
        "import cifarlab\n"
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, classes))\n"
        "recipe = cifarlab.recipe('lenet5', dataset='digits', epochs=1, model_options={})\n"
        "cifarlab.train(recipe, model=Net, name='a', force=True, quiet=True)\n"
    )
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True)
    trained = Run(tmp_path / "runs" / "a")
    assert trained.record.recipe.model.endswith("script.py:Net")
    assert (trained.path / "network" / "script.py").read_text() == script.read_text()
    record, accuracy = (trained.path / "run.json").read_bytes(), trained.results["test_accuracy"]
    monkeypatch.chdir(tmp_path)  # where the script would find its run
    for change in (lambda: None, lambda: script.write_text("Net = None"), script.unlink):
        change()
        assert cifarlab.evaluate("a").accuracy == accuracy
    assert (trained.path / "run.json").read_bytes() == record
    trained.update(status="interrupted")
    cifarlab.resume("a", quiet=True)
    assert Run(trained.path).results["test_accuracy"] == accuracy


def test_the_history_is_a_pandas_table_where_pandas_is_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    frame = run.to_pandas()
    assert list(frame.epoch) == [1, 2] and list(frame.validation_loss) == run.columns["validation_loss"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(CifarlabError, match="to_pandas needs pandas: pip install pandas"):
        run.to_pandas()


def test_data_in_memory_can_be_trained_on(digits: Data, small: Recipe, tmp_path: Path) -> None:
    half = cifarlab.relabel(digits, drop=list("56789"))
    trained = cifarlab.train(small, data=half, runs=tmp_path, name="a", quiet=True)
    assert trained.record.data.classes == tuple("01234")
    assert trained.evaluate(half).accuracy == trained.results["test_accuracy"]
    assert Run(str(trained.path)).results == trained.results
    with pytest.raises(UsageError, match="has changed since the training"):
        trained.evaluate()  # on all digits, which bear the same name
    with pytest.raises(UsageError, match="images are 32x32, the recipe's size is 28"):
        cifarlab.train(small.changed({"size": 28}), data=digits, runs=tmp_path, name="b", quiet=True)
    assert not (tmp_path / "b").exists()


def test_a_run_on_data_in_memory_needs_it_again(copied_run: Run, digits: Data) -> None:
    for dataset in ("arrays", "mine"):
        copied_run.update(recipe=copied_run.recipe.changed({"dataset": dataset}), status="finished")
        with pytest.raises(UsageError, match=f"was in memory, as '{dataset}'. Pass it again in Python, as data="):
            cifarlab.rerun(copied_run, quiet=True)
        about = {**copied_run.classifier.about, "dataset": dataset}
        with pytest.raises(UsageError, match=f"was in memory, as '{dataset}'"):
            cifarlab.evaluate(replace(copied_run.classifier, about=about))
    repeated = cifarlab.rerun(copied_run, data=digits, runs=copied_run.path.parent, quiet=True)
    assert repeated.matches


def test_runs_to_compare_are_one_or_more(copied_run: Run) -> None:
    for one in (copied_run, str(copied_run.path), copied_run.path, f"{copied_run.path.parent}/*"):
        assert [group.runs for group in cifarlab.compare(one).groups] == [["copied"]]
    with pytest.raises(UsageError, match="names, paths or patterns, got none"):
        cifarlab.compare([])


def test_few_images_in_memory_get_the_recipe_for_them(digits: Data, tmp_path: Path) -> None:
    class Stop:
        def on_train_begin(self, run: Run) -> None:
            raise Pruned("seen enough")

    few = (digits.train.images[:60], digits.train.labels[:60])
    with pytest.raises(Pruned):
        cifarlab.train(data=few, runs=tmp_path, name="a", callbacks=[Stop()], quiet=True)
    assert (Run(tmp_path / "a").recipe.name, Run(tmp_path / "a").recipe.model) == ("small", "fastnet")


def test_arrays_are_trained_and_evaluated_on(digits: Data, small: Recipe, tmp_path: Path) -> None:
    train, test = (
        (part.images.transpose(0, 2, 3, 1) / 255, part.labels[:, None].astype(np.int32))
        for part in (digits.train, digits.test)
    )
    trained = cifarlab.train(small.changed({"epochs": 1}), data=(train, test), runs=tmp_path, name="a", quiet=True)
    assert (trained.record.data.name, trained.record.data.test) == ("arrays", 359)
    assert trained.evaluate(test).accuracy == trained.evaluate((train, test)).accuracy
    assert trained.evaluate(digits).accuracy == trained.evaluate(test).accuracy == trained.results["test_accuracy"]
    with pytest.raises(UsageError, match="has no array 'x_train'"):
        cifarlab.train(small, data="digits", runs=tmp_path, name="b", quiet=True)
    assert not (tmp_path / "b").exists()


def test_what_does_not_fit_creates_nothing(small: Recipe, tmp_path: Path) -> None:
    for changes in (
        {"model": "kears4"},
        {"drop": ["x"]},
        {"dataset": "folder:none"},
        {"model_options": {"width": 3}},
        {"size": 8},
    ):
        with pytest.raises(UsageError):
            cifarlab.train(small.changed(changes), runs=tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


def test_force_replaces_a_run_and_nothing_else(small: Recipe, tmp_path: Path) -> None:
    quick = small.changed({"epochs": 1})
    first = cifarlab.train(quick, runs=tmp_path, name="a", quiet=True)
    (old := first.path / "figures" / "old.svg").write_text("x")
    (first.path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"also has notes\.txt, which --force would delete"):
        cifarlab.train(quick, runs=tmp_path, name="a", force=True, quiet=True)
    (first.path / "notes.txt").unlink()
    cifarlab.train(quick, runs=tmp_path, name="a", force=True, quiet=True)
    assert not old.exists()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "letter.txt").write_text("x")
    with pytest.raises(UsageError, match="is not a run folder, so --force does not replace it"):
        cifarlab.train(quick, runs=tmp_path, name="precious", force=True, quiet=True)


def test_validation_images_of_ones_own_are_used_and_named(small: Recipe, tmp_path: Path) -> None:
    for part, count in (("train", 20), ("val", 7), ("test", 5)):
        make_images(tmp_path / "pets" / part, {"cat": count, "dog": count})
    pets = small.changed({"dataset": f"folder:{tmp_path / 'pets'}", "epochs": 1})
    data = cifarlab.load_data(pets.dataset, quiet=True)
    trained = cifarlab.train(pets, runs=tmp_path, name="a", quiet=True)
    counts = trained.record.data
    assert (counts.train, counts.validation, counts.test) == (40, 14, 10)
    assert "the data set's own validation images" in trained.record.protocol
    (tmp_path / "pets" / "val" / "cat" / "0.png").unlink()
    assert cifarlab.load_data(pets.dataset, quiet=True).sha256 != data.sha256


def test_everything_prepares_pictures_as_the_training_did(small: Recipe, tmp_path: Path) -> None:
    make_images(tmp_path / "pets", {"cat": 20, "dog": 20}, size=(60, 30))
    settings = {"mean": "104,117,124", "std": 58, "channels": "bgr", "resize": "stretch"}
    recipe = small.changed({"dataset": f"folder:{tmp_path / 'pets'}", "epochs": 1, **settings})
    run = cifarlab.train(recipe, runs=tmp_path, name="a", quiet=True)
    assert run.classifier.preprocess.settings == recipe.preprocessing
    assert run.evaluate().accuracy == run.results["test_accuracy"]  # the same pixels, so the same checksum
    path = tmp_path / "pets" / "dog" / "0.png"
    (predicted,) = run.predict(path)
    array = np.asarray(Image.open(path))
    assert run.predict(array)[0].probabilities == pytest.approx(predicted.probabilities)
    squeezed = Image.fromarray(array).resize((32, 32), Image.Resampling.BICUBIC)
    assert run.predict(squeezed)[0].probabilities == pytest.approx(predicted.probabilities)
    (shown,) = answer([PredictionRequest(str(run.weights), 0, False, path.read_bytes())], 10**6)
    assert isinstance(shown, bytes) and json.loads(shown)["classes"][0]["probability"] == pytest.approx(
        predicted.probability
    )
    further = prepare(small.changed({"dataset": recipe.dataset, "start_from": str(run.path)}))
    assert further.recipe.preprocessing == recipe.preprocessing
    assert further.data.sha256 == run.record.data.sha256


def test_a_report_that_was_cut_off_is_written_by_resuming(run: Run) -> None:
    run.report.unlink()
    cifarlab.resume(run, quiet=True)
    assert run.report.exists()
    with pytest.raises(UsageError, match="is finished"):
        cifarlab.resume(run)


class Odd(nn.Module):
    """Shares a layer, and calls another `module`, as wrappers do."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
        self.module = nn.Linear(192, classes)
        self.again = self.module

    def forward(self, images):  # type: ignore[no-untyped-def]
        return self.module(self.pool(images)) + self.again(self.pool(images))


def test_odd_networks_are_saved_and_loaded(small: Recipe, tmp_path: Path) -> None:
    trained = cifarlab.train(small, model=Odd, runs=tmp_path, name="a", quiet=True)
    assert trained.evaluate().accuracy == trained.results["test_accuracy"]


def test_a_network_that_cannot_train_is_refused_before_anything_is_made(small: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not train on batches of 1"):
        cifarlab.train(small.changed({"model": "firststeps", "batch_size": 1}), runs=tmp_path / "r", quiet=True)
    assert not (tmp_path / "r").exists()


def test_a_training_does_not_wait_for_what_it_does_not_use(tmp_path: Path) -> None:
    """Each of these takes a second or two to import."""
    code = (
        "import sys, cifarlab; recipe = cifarlab.recipe('lenet5', dataset='digits', epochs=1, batch_size=64);"
        "cifarlab.train(recipe, quiet=True); print([name for name in ('torch._dynamo', 'scipy.stats', 'sklearn')"
        " if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout.splitlines()[-1:] == ["[]"], ended.stdout + ended.stderr
