"""Sharpness-aware minimisation and stochastic weight averaging: their formulas, and equal bits after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import cifarlab
from cifarlab import Recipe, UsageError
from cifarlab.data.batches import to_device
from cifarlab.training.loop import epoch_batches, set_training_mode, train_step
from cifarlab.training.preparation import prepare
from cifarlab.training.session import Session
from cifarlab.training.state import Training, average_epoch, begin
from cutting import assert_equal_bits_after_a_cut


def test_a_step_takes_the_gradient_at_the_sharpest_place(small: Recipe) -> None:
    changes = {"model": "fastnet", "model_options": {"width": 4}, "sam": 0.05, "precision": "fp32", "momentum": 0.0}
    prepared = prepare(small.changed(changes | {"learning_rate": 0.1, "label_smoothing": 0.1}))
    training = begin(prepared)
    set_training_mode(training)
    network = training.classifier.network
    batch = next(epoch_batches(training, to_device(prepared.parts.train, training.device), 0))
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in weights]
    norm = next(layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))
    inputs = training.classifier.preprocess(batch.images)

    def gradients() -> tuple[torch.Tensor, ...]:
        loss = F.cross_entropy(network(inputs), batch.labels, label_smoothing=0.1)
        return torch.autograd.grad(loss, weights)

    first = gradients()
    length = torch.cat([each.flatten() for each in first]).norm()
    means = norm.running_mean.clone() if norm.running_mean is not None else None
    with torch.no_grad():
        for weight, gradient in zip(weights, first, strict=True):
            weight.add_(0.05 * gradient / length)
    sharpest = gradients()
    with torch.no_grad():
        for weight, value in zip(weights, before, strict=True):
            weight.copy_(value)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
    train_step(training, batch)
    for number in (0, -1):  # kernels are rescaled after the step
        stepped = before[number] - 0.1 * sharpest[number]
        torch.testing.assert_close(weights[number].detach(), stepped, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(stepped, before[number] - 0.1 * first[number], rtol=1e-3, atol=1e-4)
    assert norm.momentum == 0.15 and means is not None and norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)  # one update, by the first pass


def test_the_mean_of_the_last_epochs_is_kept(small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw: list[dict[str, torch.Tensor]] = []
    after_epoch = Session.after_epoch

    def note(session: Session, training: Training, row: Any) -> None:
        raw.append({key: value.clone() for key, value in training.classifier.network.state_dict().items()})
        after_epoch(session, training, row)

    monkeypatch.setattr(Session, "after_epoch", note)
    recipe = small.changed({"epochs": 4, "swa": 0.5, "keep": "last"})
    run = cifarlab.train(recipe, runs=tmp_path, name="a", quiet=True)
    kept = load_file(run.path / "last.safetensors")
    for key, value in raw[0].items():
        if value.is_floating_point():
            mean = (raw[2][key] + raw[3][key]) / 2
            torch.testing.assert_close(kept[f"network.{key}"], mean)


def test_an_epoch_counts_once_in_the_mean(small: Recipe) -> None:
    training = begin(prepare(small.changed({"epochs": 4, "swa": 0.5})))
    assert training.average is not None
    counts = []
    for epoch in (0, 1, 2, 2, 3):  # 2 was stopped while it was validated
        training.epoch = epoch
        average_epoch(training)
        counts.append(int(training.average.n_averaged))
        assert (training.evaluated is training.classifier) == (epoch < 2)
    assert counts == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("changes", [{"swa": 0.4}, {"sam": 0.05}, {"sam": 0.05, "optimizer": "muon", "swa": 0.3}])
def test_a_cut_run_resumes_to_the_same_bits(changes: dict[str, Any], small: Recipe, tmp_path: Path) -> None:
    options = {"model": "fastnet", "model_options": {"width": 4}, "epochs": 3, "keep": "last"}
    assert_equal_bits_after_a_cut(small.changed(options | changes), tmp_path, epoch=2)


def test_two_averages_are_refused(small: Recipe) -> None:
    with pytest.raises(UsageError, match="ema and swa both average the weights"):
        small.changed({"ema": 0.9, "swa": 0.5})
