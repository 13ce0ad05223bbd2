"""Weights of other code in the networks of the package: the same logits, or a clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from cifarlab import UsageError, import_state_dict
from conftest import Cli, answer
from layouts import LAYOUTS, DenseNet, ThinResNet, fill

Weights = dict[str, Tensor]


def save(weights: Any, path: Path) -> Path:
    (safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save)(weights, path)
    return path


def largest_difference(path: Path, model: str, network: nn.Module) -> float:
    """The largest difference between the logits here and there, as a part of the largest logit."""
    classifier = import_state_dict(path, model)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        here, there = classifier.network(images), network(images)
    assert here.shape == there.shape and there.std() > 1e-3
    return float((here - there).abs().max() / there.abs().max())


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_those_of_the_network_that_made_the_file(layout: str, ending: str, tmp_path: Path) -> None:
    model, build = LAYOUTS[layout]
    network = fill(build())
    assert largest_difference(save(network.state_dict(), tmp_path / f"w.{ending}"), model, network) < 1e-5


def lightning(weights: Weights) -> object:
    inside = {f"model.{name}": value for name, value in weights.items()}
    return {"state_dict": inside | {"loss.weight": torch.ones(10)}, "epoch": 3, "pytorch-lightning_version": "2.0"}


WRAPPED: dict[str, Callable[[Weights], object]] = {
    "DataParallel": lambda weights: {"net": {f"module.{name}": value for name, value in weights.items()}, "acc": 95.1},
    "Lightning": lightning,
    "torch.compile": lambda weights: {f"_orig_mod.module.{name}": value for name, value in weights.items()},
    "compiled backbone": lambda weights: {
        "model": {f"module.backbone._orig_mod.{name}": value for name, value in weights.items()}
    },
    "averaged model": lambda weights: {
        "n_averaged": torch.tensor(5),
        **{f"module.{name}": value for name, value in weights.items()},
    },
    "no counters": lambda weights: {name: value for name, value in weights.items() if "num_batches" not in name},
    "half": lambda weights: {name: value.half().float() for name, value in weights.items()},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_and_checkpoints_are_opened(kind: str, tmp_path: Path) -> None:
    network = fill(ThinResNet())
    if kind == "half":
        network = network.half().float()
    path = save(WRAPPED[kind](dict(network.state_dict())), tmp_path / "w.ckpt")
    assert largest_difference(path, "resnet20", network) < 1e-5
    assumed = " ".join(import_state_dict(path, "resnet20").about["assumed"])
    assert ("such as model.loss" in assumed or "such as loss.weight" in assumed) == (kind == "Lightning")
    assert ("such as n_averaged" in assumed) == (kind == "averaged model")


def test_a_file_that_was_cut_is_named_as_such(tmp_path: Path, cli: Cli) -> None:
    path = save(fill(ThinResNet()).state_dict(), tmp_path / "w.pth")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UsageError, match=r"w\.pth: it is incomplete or damaged$"):
        import_state_dict(path, "resnet20")
    assert "it is incomplete or damaged" in cli("identify", "w.pth").stdout


def without(weights: Weights, *words: str) -> Weights:
    return {name: value for name, value in weights.items() if not any(word in name for word in words)}


UNFIT: dict[str, tuple[str, Callable[[], object], str]] = {
    "another stem": (
        "resnet20",
        lambda: fill(ThinResNet()).state_dict() | {"conv1.weight": torch.zeros(16, 3, 7, 7)},
        r"does not fit resnet20: its first kernels have 7x7 pixels, as in networks for large images; "
        r"1 of the network's 39 layers are not in the file, first '0' \(weight \[16, 3, 3, 3\]\); "
        r"1 of the file's 39 layers are not in the network, first 'conv1' \(weight \[16, 3, 7, 7\]\)$",
    ),
    "one channel": (
        "resnet20",
        lambda: fill(ThinResNet()).state_dict() | {"conv1.weight": torch.zeros(16, 1, 3, 3)},
        r"does not fit resnet20: it takes one channel: --channels mono; 1 of the network's 39 layers",
    ),
    "no output layer": (
        "resnet20",
        lambda: without(fill(ThinResNet()).state_dict(), "linear"),
        r"does not fit resnet20: it has no output layer of these features.*; 1 of the network's 39 layers",
    ),
    "a part": (
        "resnet20",
        lambda: without(fill(ThinResNet()).state_dict(), "linear", "layer3.2."),
        r"5 of the network's 39 layers are not in the file, first '5.2.path.0' \(weight",
    ),
    "deeper": (
        "resnet20",
        lambda: fill(ThinResNet(depth=5)).state_dict(),
        r"resnet20: 24 of the file's 63 layers are not in the network, first 'layer",
    ),
    "another order": (
        "resnet20",
        lambda: dict(
            zip(sorted(fill(ThinResNet()).state_dict()), fill(ThinResNet()).state_dict().values(), strict=True)
        ),
        "of the network's 39 layers are not in the file",
    ),
    "negative variances": (
        "resnet20",
        lambda: (weights := fill(ThinResNet()).state_dict()) | {"bn1.running_var": -weights["bn1.running_var"]},
        r"does not fit resnet20: 1.running_var holds negative variances, so the file is damaged$",
    ),
    "another network": (
        "vgg11",
        lambda: fill(ThinResNet()).state_dict(),
        "of the network's 17 layers are not in the file",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_weights_of_another_network_are_refused_whole(kind: str, tmp_path: Path, cli: Cli) -> None:
    model, make, text = UNFIT[kind]
    path = save(make(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=text) as raised:
        import_state_dict(path, model)
    assert "\n" not in str(raised.value)
    cli("import", path, "--model", model, "--out", "o.safetensors", status=2)
    assert not (tmp_path / "o.safetensors").exists()


def test_a_command_shows_what_went_where_and_measures_the_accuracy(tmp_path: Path, cli: Cli) -> None:
    save(fill(ThinResNet()).state_dict(), tmp_path / "w.pth")
    words = ("import", "w.pth", "--model", "resnet20", "--data", "digits", "--mean", "0.3", "--std", "0.4")
    found = answer(cli(*words, "--json"))
    assert found["matched"]["0"] == "conv1" and found["matched"]["4.0.path.3"] == "layer2.0.conv2"
    assert len(found["matched"]) == 39 and found["classes"] == list("0123456789")
    assert found["checked"]["images"] > 300 and 0 < found["checked"]["accuracy"] < 0.3
    printed = cli(*words, "--force").stdout
    assert "4.0.path.3   layer2.0.conv2   32x32x3x3" in printed and " images of digits: " in printed


def test_which_weights_were_taken_and_that_none_were_measured_is_said(tmp_path: Path) -> None:
    weights = fill(ThinResNet(classes=3)).state_dict()
    zeros = {name: torch.zeros_like(value) for name, value in weights.items()}
    path = save({"ema": zeros, "model": weights, "args": {"epochs": 3}}, tmp_path / "w.pth")
    assumed = import_state_dict(path, "resnet20", data="digits").about["assumed"]
    assert "the weights under 'model' were taken; those under ema were not" in assumed
    assert any(line.startswith("no accuracy was measured: digits has 10 classes") for line in assumed)


def test_classes_that_are_named_must_be_those_of_the_file(tmp_path: Path) -> None:
    path = save(fill(ThinResNet(classes=3)).state_dict(), tmp_path / "w.pth")
    assert import_state_dict(path, "resnet20", classes="a,b,c").classes == ("a", "b", "c")
    with pytest.raises(UsageError, match="--classes must be 3 different names, got 'a, b'"):
        import_state_dict(path, "resnet20", classes="a,b")


@pytest.mark.parametrize("last", [False, True])
def test_a_densenet_whose_new_maps_come_last_is_refused(last: bool, tmp_path: Path) -> None:
    network = fill(DenseNet(last)).train()
    generator = torch.Generator().manual_seed(2)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(8, 3, 32, 32, generator=generator))
    path = save(network.state_dict(), tmp_path / "w.pth")
    if last:
        with pytest.raises(UsageError, match="its DenseNet puts the new maps of a layer last, and this network first"):
            import_state_dict(path, "densenet-bc-100-12")
    else:
        assert largest_difference(path, "densenet-bc-100-12", network.eval()) < 1e-5
