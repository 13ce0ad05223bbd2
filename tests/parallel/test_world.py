"""Several processes train what one would: real processes, as torchrun starts them, on the processor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from distributed_worker import CPU, STEPS, VALIDATION, begun, first_batch, validated, values_of_all

from cifarlab import Data
from cifarlab.errors import UsageError
from cifarlab.parallel import batchnorm
from cifarlab.parallel.torchrun import Place
from cifarlab.parallel.world import SINGLE, World, open_world
from cifarlab.runs.folder import RunFolder

Cli = Any
SECONDS = 300
TRAIN = ["-m", "cifarlab", "train", "lenet5", "--data", "digits", "--set", "batch_size=100"]
EVERYTHING: dict[str, Any] = {  # that has a state or changes a gradient
    "epochs": 12,
    "skip_easy": 0.3,
    "ema": 0.5,
    "gradient_clip": 1.0,
    "freeze_first": 0.5,
    "augment.shift": 0.1,
    "augment.alternate_flip": "true",
    "input_dropout": 0.1,
    "optimizer": "muon",
    "learning_rate": 0.02,
}
FULL = [part for key, value in EVERYTHING.items() for part in ("--set", f"{key}={value}")]


def launch(processes: int, *arguments: str | Path, folder: Path, restarts: int = 0) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", str(restarts)]
    return subprocess.Popen(
        [*torchrun, "--nproc-per-node", str(processes), *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers(torchrun: subprocess.Popen[str]) -> dict[int, int]:
    """The processes that torchrun started, by rank."""
    listed = subprocess.run(["ps", "--ppid", str(torchrun.pid), "-o", "pid="], capture_output=True, text=True).stdout
    found: dict[int, int] = {}
    for pid in map(int, listed.split()):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(entry[5:]): pid for entry in environment if entry.startswith(b"RANK=")}
    return found


def after_epochs(count: int, runs: Path, torchrun: subprocess.Popen[str]) -> RunFolder:
    """The run, once it has done so many epochs."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and torchrun.poll() is None:
        for path in runs.glob("*/metrics.csv"):
            if len(RunFolder(path.parent).history) >= count:
                return RunFolder(path.parent)
        time.sleep(0.05)
    torchrun.kill()
    raise AssertionError(torchrun.communicate())


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def pieces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, np.ndarray]]:
    """What distributed_worker.py found with two processes, and with three."""
    folder = tmp_path_factory.mktemp("pieces")
    script = Path(__file__).with_name("distributed_worker.py")
    ended = launch(request.param, script, folder / "out.npz", folder=folder)
    told = ended.communicate(timeout=SECONDS)
    assert ended.returncode == 0, told
    with np.load(folder / "out.npz", allow_pickle=False) as archive:
        yield {**archive, "processes": np.asarray(request.param)}


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("model", STEPS)
def test_the_first_gradient_is_that_of_the_whole_batch(model: str, pieces: dict[str, np.ndarray], digits: Data) -> None:
    training = begun(model, digits.train)  # in fp64, because PyTorch's batch normalisation in fp32 is off by 5e-5
    batch, network = first_batch(training, digits.train), training.classifier.network.double()
    assert training.class_weights is not None and len(batch.indices) == STEPS[model]
    logits = network(training.classifier.preprocess(batch.images).double())
    smoothing = training.recipe.label_smoothing
    losses = F.cross_entropy(
        logits, batch.labels, training.class_weights.double(), label_smoothing=smoothing, reduction="none"
    )
    losses.mean().backward()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    expected = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    # Seven batch normalisations in a row make a hundred times more of the loss's rounding, which is in fp32.
    limit = 1e-4 if model == "firststeps" else 1e-5
    assert distance(pieces[f"{model}.gradient"], expected.numpy()) < limit
    assert pieces[f"{model}.loss_sum"] == pytest.approx(float(losses.sum().detach()), rel=1e-6)
    assert pieces[f"{model}.correct"] == int((logits.argmax(1) == batch.labels).sum())
    kept = np.zeros(len(digits.train))
    kept[batch.indices.numpy()] = losses.detach().numpy()
    assert pieces[f"{model}.losses"] == pytest.approx(kept, rel=1e-5, abs=1e-6)


def test_every_image_is_trained_on_once_and_shares_are_even(pieces: dict[str, np.ndarray], digits: Data) -> None:
    left_over = len(digits.train) % 64 == 1
    assert len(pieces["trained.indices"]) == len(digits.train) - left_over
    assert len(set(pieces["trained.indices"].tolist())) == len(pieces["trained.indices"])
    sizes = pieces["trained.sizes"]
    assert sizes.shape[0] == pieces["processes"] and (sizes.max(axis=0) - sizes.min(axis=0)).max() <= 1


def test_every_image_is_validated_once_to_the_same_bits(pieces: dict[str, np.ndarray], digits: Data) -> None:
    assert pieces["validated.seen"] == VALIDATION == len(pieces["validated.logits"])
    assert pieces["validated.logits"] == pytest.approx(validated(digits.train)["logits"], abs=1e-5)
    assert np.array_equal(pieces["validated.logits"].argmax(1), validated(digits.train)["logits"].argmax(1))


def test_batch_normalisation_is_over_all_processes_and_exact(pieces: dict[str, np.ndarray]) -> None:
    values, weights = (each.double() for each in values_of_all())
    values.requires_grad_()
    variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
    shaped = [each.view(1, 3, 1, 1) for each in (mean, variance)]
    normal = (values - shaped[0]) / (shaped[1] + 1e-5).sqrt()
    (normal * weights).sum().backward()
    assert values.grad is not None
    assert pieces["norm.mean"] == pytest.approx(mean.detach().numpy(), rel=1e-6)
    unbiased = variance.detach().numpy() * len(values) / (len(values) - 1)
    assert pieces["norm.variance"] == pytest.approx(unbiased, rel=1e-5)
    assert distance(pieces["norm.of_values"], values.grad.numpy()) < 1e-5
    assert pieces["norm.of_weight"] == pytest.approx((normal * weights).sum((0, 2, 3)).detach().numpy(), rel=1e-3)
    assert pieces["norm.of_bias"] == pytest.approx(weights.sum((0, 2, 3)).numpy(), rel=1e-3)


def test_one_word_on_signals_time_and_errors(pieces: dict[str, np.ndarray]) -> None:
    assert (pieces["received"] == 15).all() and len(pieces["received"]) == pieces["processes"]
    assert len(set(pieces["clocks"].tolist())) == 1
    assert len(set(pieces["error"].tolist())) == 1 and "UsageError: unknown recipe" in pieces["error"][0]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_one_alone_goes_on(tmp_path: Path, cli: Cli) -> None:
    torchrun = launch(2, *TRAIN, *FULL, folder=tmp_path)
    run = after_epochs(2, tmp_path / "runs", torchrun)
    os.kill(workers(torchrun)[1], signal.SIGTERM)
    out, err = torchrun.communicate(timeout=SECONDS)
    assert torchrun.returncode == 1 and out == "", err
    assert err.count("stopped by SIGTERM, everything is saved") == 1 and "exitcode  : 143" in err, err
    assert run.status == "interrupted" and [path.name for path in (tmp_path / "runs").glob("[!.]*")] == [run.name]
    done = len(run.history)
    assert 2 <= done < EVERYTHING["epochs"]
    cli("resume", run.name)
    ended = RunFolder(run.path)
    assert ended.status == "finished" and len(ended.history) == EVERYTHING["epochs"]
    assert ended.history[:done] == run.history[:done]
    assert ended.confusion.sum(axis=(1, 2)).tolist() == [ended.record.data.validation] * len(ended.history)
    assert ended.results["test_accuracy"] > 0.5


@pytest.mark.slow
def test_a_run_goes_on_when_torchrun_starts_a_killed_process_again(tmp_path: Path) -> None:
    settings = ["--set", "epochs=12", "--set", "learning_rate=0.05", "--json"]
    torchrun = launch(2, *TRAIN, *settings, folder=tmp_path, restarts=1)
    run = after_epochs(2, tmp_path / "runs", torchrun)
    killed = workers(torchrun)[1]
    os.kill(killed, signal.SIGKILL)
    done = len(run.history)
    out, err = torchrun.communicate(timeout=SECONDS)
    assert torchrun.returncode == 0, err
    assert "exitcode: -9" in err and f"pid: {killed}" in err, err
    assert [path.name for path in (tmp_path / "runs").glob("[!.]*")] == [run.name]
    ended = RunFolder(run.path)
    assert ended.status == "finished" and len(ended.history) == 12 > done
    assert ended.history[:done] == run.history[:done]
    assert ended.record.environment.processes == 2
    assert f"started again by torchrun: {run.name} goes on after epoch" in err, err
    assert "go on with" not in err, err  # torchrun does
    assert out.count('"test_accuracy"') == 1 and ended.results["test_accuracy"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the board", "SIGTERM"])
def test_a_stop_is_not_taken_for_a_death(how: str, tmp_path: Path) -> None:
    torchrun = launch(2, *TRAIN, "--set", "epochs=1000", folder=tmp_path, restarts=2)
    run = after_epochs(1, tmp_path / "runs", torchrun)
    if how == "SIGTERM":
        os.kill(workers(torchrun)[1], signal.SIGTERM)
    else:
        (run.path / "stop").touch()
    _, err = torchrun.communicate(timeout=SECONDS)
    assert torchrun.returncode == 0, err
    assert err.count("stopped by ") == 1 and "started again" not in err, err
    assert run.status == "interrupted" and len(run.history) < 1000


@pytest.mark.slow
def test_the_others_say_so_when_the_first_process_dies(tmp_path: Path) -> None:
    torchrun = launch(3, *TRAIN, "--set", "epochs=1000", folder=tmp_path)
    run = after_epochs(1, tmp_path / "runs", torchrun)
    os.kill(workers(torchrun)[0], signal.SIGKILL)
    _, err = torchrun.communicate(timeout=SECONDS)
    assert f"another process of {run.name} has ended, and its last checkpoint is kept: go on with: cifarlab res" in err


@pytest.mark.slow
def test_wrong_usage_is_printed_once_at_each_start(tmp_path: Path) -> None:
    torchrun = launch(2, *TRAIN, "--set", "compile=true", folder=tmp_path, restarts=1)
    out, err = torchrun.communicate(timeout=SECONDS)
    assert torchrun.returncode == 1 and out == ""
    refused = "error: compile = true works with one process only: set compile = false to train with several"
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert errors == [refused] * 2  # at the start, and when torchrun has started the processes again
    assert "exitcode  : 2" in err and not (tmp_path / "runs").exists()


def test_commands_that_processes_cannot_share_are_refused(cli: Cli) -> None:
    assert (
        "evaluate runs in one process"
        in cli("evaluate", "any", status=2, own_process=True, RANK="0", WORLD_SIZE="2").stderr
    )


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")  # as some clusters set them for a process alone
    with open_world() as world:
        assert world is SINGLE and (world.rank, world.size) == (0, 1) and world.is_first
        values, network = torch.ones(3), torch.nn.Identity()
        assert world.total(values) is values and world.own_part(values) is values
        assert world.interleave(["a", "b"]) == ["a", "b"] and batchnorm.synchronize(network, world) is network
        assert world.gather(1) == [1] and world.call_first(lambda: 2) == 2 and world.recall("run") == ""


def test_two_are_too_many_for_a_batch_of_one() -> None:
    with pytest.raises(UsageError, match="batch_size must be at least 2, the number of processes, got 1"):
        World(Place(0, 2)).check(batch_size=1, compiled=False, device=CPU)
