"""Weights files: nothing is lost between saving and loading, and other files are refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cifarlab import Data, Recipe, train, trust
from cifarlab.errors import CifarlabError, UntrustedFile, UsageError
from cifarlab.inference.classifier import Classifier, make_classifier
from cifarlab.inference.weights_file import CHECKSUM, FORMAT, load_weights, read_metadata, save_weights
from cifarlab.recipes import Normalization, Preprocessing


def made(kind: Normalization = "standard", classes: tuple[str, ...] = ("2", "10", "<b>")) -> Classifier:
    torch.manual_seed(0)
    return make_classifier("lenet5", {"activation": "relu"}, classes, 32, kind)


@pytest.mark.parametrize("kind", ["standard", "zca"])
def test_a_weights_file_gives_back_the_same_classifier(kind: Normalization, tmp_path: Path, digits: Data) -> None:
    classifier = made(kind)
    classifier.preprocess.fit(digits.train.images[:200])
    path = tmp_path / "w.safetensors"
    save_weights(classifier, path, {"recipe": "mine", "seed": 3})
    loaded = load_weights(path)
    images = torch.from_numpy(digits.test.images[:5])
    classifier.network.eval()
    assert torch.equal(loaded.logits(images), classifier.logits(images))
    assert (loaded.classes, loaded.size, loaded.model) == (("2", "10", "<b>"), 32, "lenet5")
    assert loaded.about == {"recipe": "mine", "seed": 3}
    assert loaded.model_options == {"activation": "relu"}
    assert not loaded.network.training


def test_preprocessing_is_kept_and_older_files_have_the_defaults(tmp_path: Path) -> None:
    settings = Preprocessing("raw", (104.0,), (2.0,), "bgr", "stretch")
    classifier = make_classifier("lenet5", {}, ("a", "b"), 32, settings)
    save_weights(classifier, path := tmp_path / "w.safetensors")
    assert load_weights(path).preprocess.settings == settings
    with safetensors.safe_open(path, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != CHECKSUM}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    safetensors.torch.save_file(tensors, path, metadata | {"preprocessing": '{"resize": "x"}'})
    with pytest.raises(UsageError, match="preprocessing: resize should be 'crop', 'stretch' or 'pad', got 'x'"):
        load_weights(path)
    del metadata["preprocessing"]
    safetensors.torch.save_file(tensors, path, metadata)
    assert load_weights(path).preprocess.settings == Preprocessing("raw")


def test_prefixes_of_wrappers_are_removed_from_weight_names(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    classifier = made()
    save_weights(classifier, path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != CHECKSUM}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    wrapped = {name.replace("network.", "network.module._orig_mod."): value for name, value in tensors.items()}
    safetensors.torch.save_file(wrapped, path, metadata)
    expected = classifier.network.state_dict()
    found = load_weights(path).network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_weights_do_not_run_a_file_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text("raise SystemExit('was run')")
    monkeypatch.chdir(tmp_path)
    about = {"format": FORMAT, "model": "net.py:Net", "model_options": "{}", "classes": "[]", "size": "32"}
    safetensors.torch.save_file({}, "w.safetensors", about | {"normalize": "unit", "about": "{}"})
    with pytest.raises(UsageError, match="does not give that file's folder"):
        load_weights(Path("w.safetensors"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(UsageError, match="there is no weights file"):
        load_weights(path)
    path.write_bytes(b"not weights")
    with pytest.raises(UsageError, match="not a safetensors file"):
        load_weights(path)
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(UsageError, match="not the metadata that cifarlab needs"):
        load_weights(path)
    save_weights(made(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UsageError, match="not a safetensors file"):
        load_weights(path)
    save_weights(made(classes=("a", "b")), path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = {**file.metadata(), "classes": '["a", "b", "c"]'}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(UsageError, match=r"is damaged, or another program has changed it"):
        load_weights(path)
    del metadata[CHECKSUM]
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(UsageError, match="does not fit its network"):
        load_weights(path)


METADATA = {
    "classes": {
        "[1, 2, 3]": "classes.0 should be a text, got 1",
        '["a\\nb", "c", "d"]': "must be printable, got 'a b'",
    },
    "size": {"7": "size should be greater than or equal to 8, got '7'"},
    "about": {
        '{"temperature": []}': "about.temperature should be a number",
        '{"temperature": NaN}': "about.temperature should be",
        '{"temperature": 0}': "about.temperature should be greater than 0, got 0",
        '{"drop": 5}': "about.drop should be a list, got 5",
        '{"merge": [1]}': "about.merge should be a table",
        "[]": "about should be",
    },
}


@pytest.mark.parametrize(
    ("key", "value", "text"), [(key, *case) for key, cases in METADATA.items() for case in cases.items()]
)
def test_metadata_are_checked(key: str, value: str, text: str, tmp_path: Path) -> None:
    good = {"classes": '["a", "b", "c"]', "size": "32", "about": '{"temperature": 1.5, "tta": true, "other": [1]}'}
    assert read_metadata(good, "w") == (("a", "b", "c"), 32, {"temperature": 1.5, "tta": True, "other": [1]})
    with pytest.raises(UsageError, match=re.escape(text)):
        read_metadata(good | {key: value}, "w")
    save_weights(made(), path := tmp_path / "w.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != CHECKSUM}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    safetensors.torch.save_file(tensors, path, metadata | {key: value})
    with pytest.raises(UsageError, match=rf"w.safetensors: its metadata are damaged: .*{re.escape(text)}") as raised:
        load_weights(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("module", ["network", "preprocess"])
def test_weights_that_are_not_finite_are_refused(module: str, tmp_path: Path) -> None:
    classifier = made()
    next(iter(getattr(classifier, module).state_dict().values())).view(-1)[0] = float("nan")
    save_weights(classifier, path := tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"w.safetensors: the (network|preprocessing): .* holds NaN or infinite"):
        load_weights(path)


def test_a_changed_network_file_is_reported(
    tmp_path: Path, small: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "net.py"
    text = "from torch import nn\ndef net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes){more})"
    file.write_text(text.format(more=""))
    recipe = small.changed({"model": f"{file}:net", "model_options": {}, "epochs": 1})
    run = train(recipe, runs=tmp_path, name="a", quiet=True)
    load_weights(run.weights)
    assert "has changed" not in capsys.readouterr().err
    file.write_text(text.format(more=", nn.Tanh()"))
    load_weights(run.weights)  # with the copy that the training left in the cache
    assert "has changed" not in capsys.readouterr().err
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "another machine"))
    (run.path / "network" / "net.py").unlink()
    with pytest.raises(UntrustedFile, match=r"best.safetensors: .*net\.py \(SHA-256 .*would be run"):
        load_weights(run.weights)
    trust(file)
    load_weights(run.weights)
    assert "has changed since" in capsys.readouterr().err


def test_an_error_of_a_users_network_during_training_is_reported(tmp_path: Path, small: Recipe) -> None:
    file = tmp_path / "late.py"
    file.write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    calls = 0\n"
        "    def __init__(self, classes): super().__init__(nn.Flatten(), nn.Linear(3072, classes))\n"
        "    def forward(self, x):\n"
        "        Net.calls += 1\n"
        "        if Net.calls > 9: raise RuntimeError('late failure')\n"
        "        return super().forward(x)\n"
    )
    recipe = small.changed({"model": f"{file}:Net", "model_options": {}})
    with pytest.raises(CifarlabError, match=r"the training of .*late.py:Net failed, .*RuntimeError: late failure"):
        train(recipe, runs=tmp_path, name="a", quiet=True)


def test_a_pipe_is_no_weights_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CifarlabError, match=r"cannot read .*pipe.safetensors is not a regular file"):
        load_weights(tmp_path / "pipe.safetensors")
