"""Networks of other programs: their weights in one's own network, and the preprocessing that nobody wrote down."""

from __future__ import annotations

import os
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

import cifarlab
from cifarlab import UsageError, import_state_dict, load_data
from cifarlab.inference.importing import CAFFE, IMAGENET
from cifarlab.inference.preprocessing import Preprocess
from cifarlab.recipes import Preprocessing
from conftest import Cli, answer

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.head = nn.Linear(3, classes)

    def forward(self, x):
        centres = self.head.weight
        distances = (self.norm(x).mean((2, 3))[:, None] - centres).square().sum(2)
        return 10 * (-200 * distances / centres.square().sum(1).max()).exp() + self.head.bias
"""
COLOURS = {"sea": (20, 60, 220), "sky": (120, 180, 250), "fire": (230, 80, 30), "grass": (40, 160, 60)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `net.py`, and with broad pictures in `photos` whose sides tell their class."""
    (tmp_path / "net.py").write_text(NET)
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(-15, 16, (8, 16, 3)) + colour
            pixels[:, 4:12] = 128
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "photos" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nearest_colour(settings: Preprocessing) -> dict[str, Tensor]:
    """Weights that are sure of a class if the mean colour is as with these settings."""
    data = load_data("folder:photos", size=8, resize=settings.resize, quiet=True)
    preprocess = Preprocess(settings, 8)
    preprocess.fit(data.train.images)
    means = preprocess(torch.from_numpy(data.train.images)).mean((2, 3))
    centres = torch.stack([means[data.train.labels == label].mean(0) for label in range(len(COLOURS))])
    norm = {"norm.running_mean": torch.zeros(3), "norm.running_var": torch.ones(3) - 1e-5}
    return {**norm, "head.weight": centres, "head.bias": torch.zeros(len(centres))}


SETTINGS = [
    Preprocessing("symmetric"),
    Preprocessing("raw", CAFFE[::-1], (), "bgr", "stretch"),
    Preprocessing("unit", *IMAGENET, resize="stretch"),
    Preprocessing("standard", channels="bgr", resize="stretch"),
]


@pytest.mark.parametrize("settings", SETTINGS[1:], ids=str)
def test_the_preprocessing_of_the_training_is_found(settings: Preprocessing, place: Path, cli: Cli) -> None:
    torch.save(nearest_colour(settings), "w.pth")
    words = (
        "import",
        "w.pth",
        "--model",
        "net.py:Net",
        "--size",
        "8",
        "--data",
        "folder:photos",
        "--try-preprocessing",
    )
    found = answer(cli(*words, "--json"))
    assert len(found["tried"]) == 36 and found["tried"][0]["preprocessing"] == str(settings)
    losses = [row["loss"] for row in found["tried"] if row["accuracy"] == 1]
    assert losses == sorted(losses) and found["tried"][-1]["accuracy"] < 1
    assert found["classes"] == sorted(COLOURS) and (found["channels"], found["resize"]) == (
        settings.channels,
        "stretch",
    )
    measured = answer(cli("evaluate", "w.safetensors", "--data", "folder:photos", "--json"))
    assert measured["accuracy"] == 1
    printed = cli(*words, "--channels", settings.channels, "--resize", "stretch", "--force")
    assert f"{settings}, the best of 9 on 24 images" in printed.stderr and "preprocessing" in printed.stdout


def test_square_pictures_are_tried_once_and_what_is_given_stays(place: Path) -> None:
    for path in place.rglob("*.png"):
        Image.open(path).resize((8, 8)).save(path)
    torch.save(nearest_colour(SETTINGS[0]), "w.pth")
    options: dict[str, Any] = {"size": 8, "data": "folder:photos", "try_preprocessing": True}
    classifier = import_state_dict("w.pth", "net.py:Net", **options)
    assert classifier.preprocess.settings == SETTINGS[0] and len(classifier.about["tried"]) == 18
    chosen = import_state_dict("w.pth", "net.py:Net", **options, mean="104,117,124", channels="bgr")
    assert [row["preprocessing"] for row in chosen.about["tried"]] == ["standard, mean 104/117/124, bgr"]
    with pytest.raises(UsageError, match="--try-preprocessing needs training images: choose them with --data"):
        import_state_dict("w.pth", "net.py:Net", size=8, try_preprocessing=True)


WRAPPED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "a.pth": lambda weights: weights,
    "b.pt": lambda weights: {"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 3},
    "c.pt": lambda weights: {"model_state_dict": weights, "optimizer": {"state": {}}},
    "f.pt": lambda weights: {f"net.module.backbone.{name}": value for name, value in weights.items()},
    "d.pt": lambda weights: {"model": {f"_orig_mod.{name}": value.half() for name, value in weights.items()}},
    "e.ckpt": lambda weights: {"state_dict": {f"model.{name}": value for name, value in weights.items()}},
    "f.safetensors": lambda weights: weights,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_state_dictionaries_are_loaded_into_ones_own_network(name: str, place: Path) -> None:
    weights = nearest_colour(SETTINGS[0])
    content: Any = WRAPPED[name](weights)
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(content, name)
    else:
        torch.save(content, name, _use_new_zipfile_serialization=name != "c.pt")
    classifier = import_state_dict(
        name, "net.py:Net", classes=["fire", "grass", "sea", "sky"], normalize="symmetric", size=8
    )
    state = classifier.network.state_dict()
    assert all(torch.allclose(state[key], value, rtol=1e-2) for key, value in weights.items())
    assert not classifier.network.training and classifier.size == 8
    cifarlab.export(classifier, "out.safetensors", format="safetensors")
    (before,), (after,) = (cifarlab.predict(each, "photos/sea/0.png") for each in (classifier, "out.safetensors"))
    assert before == after


def save_compressed(path: Path) -> None:
    torch.save({"x": torch.zeros(100_000)}, "plain.pt")
    with zipfile.ZipFile("plain.pt") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "none.pt": (lambda path: None, "there is no file"),
    "whole.pt": (
        lambda path: torch.save(nn.Linear(2, 2), path),
        r"whole network of the class torch.nn.modules.linear.Linear, whose code is not run. Save its weights where it "
        r"was made: torch.save\(torch.load\('whole.pt', weights_only=False\).state_dict\(\), 'weights.pth'\)",
    ),
    "inside.pt": (
        lambda path: torch.save({"net": nn.Linear(2, 2), "acc": 90.0}, path),
        r"torch.save\(torch.load\('inside.pt', weights_only=False\)\['net'\].state_dict\(\), 'weights.pth'\)",
    ),
    "old.pt": (
        lambda path: torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=False),
        r"holds more than tensors. .* torch.save\(model.state_dict",
    ),
    "list.pt": (lambda path: torch.save([1, 2], path), "holds no tensors by name"),
    "text.pt": (lambda path: path.write_text("text"), "text.pt: not a PyTorch file"),
    "bomb.pt": (save_compressed, "it is compressed"),
    "m.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "a Keras .HDF5. file. Convert it with"),
    "other.pt": (
        lambda path: torch.save({"conv.weight": torch.zeros(4, 3), "head.weight": torch.zeros(4, 9)}, path),
        r"other.pt does not fit .*net.py:Net: missing: norm.running_mean, norm.running_var, head.bias; "
        r"not of the network: conv.weight; of another shape: head.weight \[4, 9\] instead of \[4, 3\]",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_and_other_weights_are_refused_in_one_line(name: str, place: Path) -> None:
    write, text = OTHERS[name]
    write(Path(name))
    with pytest.raises(UsageError, match=text) as raised:
        import_state_dict(name, "net.py:Net")
    assert "\n" not in str(raised.value)


HEADS = """
import torch
from torch import nn

class First(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc, self.conv = nn.Linear(7, classes), nn.Conv2d(3, 7, 3)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

class Fixed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(192, 5), nn.Softmax(1))

class One(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(192, 1), nn.Sigmoid())
"""


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_the_outputs_need_not_be_the_last_weight(ending: str, place: Path) -> None:
    Path("heads.py").write_text(HEADS)
    weights = {"fc.weight": torch.ones(5, 7), "fc.bias": torch.ones(5)}
    weights |= {"conv.weight": torch.ones(7, 3, 3, 3), "conv.bias": torch.ones(7)}
    (safetensors.torch.save_file if ending == "safetensors" else torch.save)(weights, f"w.{ending}")
    assert len(import_state_dict(f"w.{ending}", "heads.py:First", size=8).classes) == 5
    with pytest.raises(UsageError, match=r"fc.weight \[5, 7\] instead of \[2, 7\].*with --classes"):
        import_state_dict(f"w.{ending}", "heads.py:First", size=8, classes="a,b")


def test_outputs_that_are_no_logits_are_noticed(place: Path) -> None:
    Path("heads.py").write_text(HEADS)
    Path("heads.py").write_text(f"{HEADS}\nclass Maps(nn.Conv2d):\n    def __init__(self): super().__init__(3, 5, 1)")
    torch.save({"weight": torch.zeros(5, 3, 1, 1), "bias": torch.zeros(5)}, "maps.pth")
    with pytest.raises(UsageError, match=r"returned \[2, 5, 32, 32\]$"):
        import_state_dict("maps.pth", "heads.py:Maps")
    for outputs in (5, 1):
        torch.save({"1.weight": torch.randn(outputs, 192), "1.bias": torch.zeros(outputs)}, f"{outputs}.pth")
    assert "look like probabilities" in " ".join(import_state_dict("5.pth", "heads.py:Fixed", size=8).about["assumed"])
    for file, options, text in (
        ("5.pth", {}, r"layer '1', .* got \[2, 3072\].*give their --size"),
        ("5.pth", {"size": 4}, "images must have 8 to 512 pixels a side, got 4"),
        ("5.pth", {"size": 8, "classes": "labes.txt"}, "--classes: there is no file 'labes.txt'"),
        ("1.pth", {"size": 8}, "must have two or more outputs, got 1"),
    ):
        with pytest.raises(UsageError, match=text) as raised:
            import_state_dict(file, f"heads.py:{'One' if file == '1.pth' else 'Fixed'}", **options)
        assert "Add a parameter" not in str(raised.value)


UNFIT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nan": (lambda weight: weight / 0, "head.weight holds NaN or infinite numbers"),
    "too large": (lambda weight: weight.double() + 1e300, "head.weight holds NaN or infinite numbers"),
    "sparse": (Tensor.to_sparse, "head.weight must be a dense tensor .*sparse_coo"),
    "complex": (lambda weight: weight * 1j, "head.weight must be a dense tensor .*complex64"),
    "meta": (lambda weight: weight.to("meta"), "head.weight must be a dense tensor .*meta"),
    "quantized": (
        lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        "head.weight must be a dense tensor .*qint8",
    ),
    "expanded": (lambda weight: weight[:1].expand(50_000_000, 3), r"all in the file, got .*\[50000000, 3\]"),
}


@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own quantized and sparse tensors
def test_weights_must_be_finite_numbers_in_the_file(kind: str, place: Path) -> None:
    change, text = UNFIT[kind]
    weights = nearest_colour(SETTINGS[0])
    torch.save(weights | {"head.weight": change(weights["head.weight"])}, "w.pth")
    with pytest.raises(UsageError, match=text):
        import_state_dict("w.pth", "net.py:Net", size=8)


class Evil:
    """Creates a file when an unpickler runs code."""

    def __init__(self, function: Any, argument: str) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> Any:
        return self.call


def test_other_objects_in_a_checkpoint_are_left_out_and_run_nothing(place: Path) -> None:
    weights = nearest_colour(SETTINGS[0])
    others = {"args": Namespace(lr=0.1), "best": np.float64(0.9), "path": Path("runs"), "epoch": 3}
    torch.save({"state_dict": weights, **others}, "w.pt")
    assert len(import_state_dict("w.pt", "net.py:Net", size=8).classes) == 4
    torch.save({"state_dict": weights, "evil": Evil(eval, "open('was-here', 'w')")}, "evil.pt")
    assert len(import_state_dict("evil.pt", "net.py:Net", size=8).classes) == 4
    torch.save({"state_dict": weights, "evil": Evil(os.system, "touch was-here")}, "shell.pt")
    with pytest.raises(UsageError, match="holds more than tensors"):
        import_state_dict("shell.pt", "net.py:Net", size=8)
    assert not Path("was-here").exists()
    torch.load("evil.pt", weights_only=False)["evil"].close()
    assert Path("was-here").exists()


def test_a_network_under_an_unknown_key_is_named(place: Path) -> None:
    weights = nearest_colour(SETTINGS[0])
    torch.save({"net": weights}, "a.pth")
    assert len(import_state_dict("a.pth", "net.py:Net", size=8).classes) == 4
    torch.save({"student": weights, "epoch": 3}, "b.pth")
    with pytest.raises(UsageError, match=r"holds no tensors by name.* Save one of student as a file"):
        import_state_dict("b.pth", "net.py:Net", size=8)


def test_an_import_keeps_its_file_and_ignores_no_option(place: Path, cli: Cli) -> None:
    safetensors.torch.save_file(nearest_colour(SETTINGS[0]), "w.safetensors")
    before = Path("w.safetensors").read_bytes()
    words = ("import", "w.safetensors", "--model", "net.py:Net", "--size", "8")
    assert "is the file to import, which stays" in cli(*words, "--force", status=2).stderr
    assert "are for Keras models" in cli(*words, "--backend", "theano", "--out", "o.safetensors", status=2).stderr
    assert Path("w.safetensors").read_bytes() == before


def test_a_network_of_one_channel_is_imported(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    torch.save({"1.weight": torch.ones(3, 64), "1.bias": torch.zeros(3)}, tmp_path / "a.pth")
    model = f"{tmp_path / 'net.py'}:net"
    with pytest.raises(UsageError, match="set channels to"):
        import_state_dict(tmp_path / "a.pth", model, size=8, classes="a,b,c")
    classifier = import_state_dict(tmp_path / "a.pth", model, size=8, channels="mono")
    assert classifier.in_channels == 1 and len(classifier.classes) == 3
