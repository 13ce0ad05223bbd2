"""The command line as a user meets it: the contract's keys, exit statuses and one-line errors."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

import cifarlab
from cifarlab import Data
from cifarlab.cli import GROUPS, app
from cifarlab.cli.output import table
from cifarlab.inference.classifier import make_classifier
from cifarlab.inference.weights_file import save_weights
from conftest import Cli, answer, make_images

QUICK = ("--data", "digits", "--set", "epochs=1", "--set", "batch_size=64")
HELP_SECONDS = 0.3  # the contract's


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "matplotlib", "sklearn", "scipy", "numpy")
    code = f"import sys, cifarlab.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_help_is_quick() -> None:
    """Take the fastest of several processes, by processor time, which other load does not change."""
    command = [str(Path(sys.executable).parent / "cifarlab"), "--help"]
    seconds = []
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < HELP_SECONDS


@pytest.mark.parametrize("command", ["recipes", "recipe keras4", "runs", "data info digits"])
def test_commands_that_need_no_network_import_no_torch(command: str) -> None:
    code = f"import sys; from cifarlab.cli import run; run({command.split()!r}); print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "False"


def test_help_groups_the_commands_by_task(cli: Cli) -> None:
    page = cli("--help").stdout
    assert all(f" {group} " in page for group in GROUPS) and len(app.registered_commands) > 15
    assert all(f" {command.name} " in page for command in app.registered_commands)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "completed"),
    [("cifarlab tra", "train"), ("cifarlab train ker", "keras4\nkeras6"), ("cifarlab resume mi", "mine")],
)
def test_the_shell_completes_commands_recipes_and_runs(
    words: str, completed: str, mine: dict[str, Any], tmp_path: Path
) -> None:
    code = "import sys\nfrom cifarlab.cli import run\ntry: run([])\nfinally: assert 'torch' not in sys.modules"
    environment = {**os.environ, "_CIFARLAB_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(words.count(" "))
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.stdout.strip(), ended.stderr) == (completed, "")


def test_models_gives_every_published_parameter_count(cli: Cli) -> None:
    counts = {row["name"]: row["parameters"] for row in answer(cli("models", "--json"))}
    expected = {
        "lenet5": 61106,
        "lenet5-3x3": 71919,
        "lenet5-wide": 395006,
        "ygnet": 1369738,
        "allcnn-c": 1369738,
        "firststeps": 551722,
        "keras4": 1250858,
        "keras6": 2395434,
    }
    assert counts.items() >= (expected | {"fastnet": 1971352}).items()
    assert all(set(row) == {"name", "parameters", "macs"} for row in answer(cli("models", "--json")))
    assert "2,395,434" in cli("models").stdout


@pytest.mark.slow
def test_data_info_describes_the_real_cifar10(cli: Cli, cifar10: Data) -> None:
    facts = answer(cli("data", "info", "cifar10", "--json"))
    assert (facts["train"], facts["test"], len(facts["classes"])) == (50_000, 10_000, 10)
    assert facts["mean"] == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=1e-6)
    assert facts["deviation"] == pytest.approx([0.24703223, 0.24348513, 0.26158784], abs=1e-6)
    assert {"name", "classes", "train", "test", "sha256", "source", "path", "schema"} <= set(facts)
    dropped = answer(cli("data", "info", "--drop", "truck", "--json"))
    assert (dropped["train"], dropped["test"], len(dropped["classes"])) == (45_000, 9_000, 9)


def test_data_show_writes_pictures(cli: Cli, tmp_path: Path, cifar10: Data) -> None:
    cli("data", "show", "digits", "--out", "a.png", "--columns", "5")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 400 and len(image.convert("RGB").getcolors(1 << 24) or []) > 100
    cli("data", "show", "digits", "--augment", "ygnet", "--out", "b.svg")
    assert (tmp_path / "b.svg").read_text().startswith("<?xml")
    assert "the file exists" in cli("data", "show", "digits", "--out", "a.png", status=2).stderr
    cli("data", "show", "digits", "--out", "a.png", "--force")
    assert "should end in .png" in cli("data", "show", "digits", "--out", "a.txt", status=2).stderr


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Train one run in a folder and return the folder with the output of the training."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-m", "cifarlab", "train", "lenet5", *QUICK, "--name", "mine", "--seed", "3", "--json"]
    return folder, subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


@pytest.fixture
def mine(trained: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> dict[str, Any]:
    """Copy the run `mine` into the folder of this test and return the document that `train --json` printed."""
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    document: dict[str, Any] = answer(trained[1])
    return document


def test_train_keeps_the_contract(trained: tuple[Path, subprocess.CompletedProcess[str]], mine: dict[str, Any]) -> None:
    assert {
        *("run", "recipe", "model", "dataset", "classes", "device", "seed", "epochs", "train_seconds"),
        *("images_per_second", "validation_accuracy", "test_accuracy", "test_loss", "schema"),
    } <= set(mine)
    assert (mine["recipe"], mine["model"], mine["dataset"], mine["seed"]) == ("lenet5", "lenet5", "digits", 3)
    progress = trained[1].stderr
    assert "epoch 1/1" in progress and "\r" not in progress and "\x1b" not in progress


def test_evaluate_shows_the_worst_of_many_classes(cli: Cli, tmp_path: Path) -> None:
    labels = np.arange(120) % 30
    classifier = make_classifier("lenet5-3x3", {}, tuple(f"kind{number}" for number in range(30)), 16, "unit")
    save_weights(classifier, tmp_path / "w.safetensors")
    pixels = np.random.default_rng(0).integers(0, 255, (120, 16, 16, 3), np.uint8)
    np.savez(
        tmp_path / "d.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels, classes=classifier.classes
    )
    words = ("evaluate", "w.safetensors", "--data", "npz:d.npz")
    whole, printed = answer(cli(*words, "--json")), cli(*words).stdout
    assert len(whole["per_class"]) == 30 and "The 10 of 30 classes with the lowest recall" in printed
    confusion = np.array(whole["confusion"])
    np.fill_diagonal(confusion, 0)
    true, predicted = np.unravel_index(confusion.argmax(), confusion.shape)
    first = printed.split("The most confused pairs of classes:\n")[1].splitlines()[1].split()
    assert first[:3] == [f"kind{true}", f"kind{predicted}", str(confusion.max())]
    assert len(printed.splitlines()) < 30


def test_evaluate_keeps_the_contract(cli: Cli, mine: dict[str, Any], tmp_path: Path) -> None:
    evaluated = answer(cli("evaluate", "mine", "--json"))
    assert set(evaluated) == {
        *("schema", "target", "dataset", "images", "accuracy", "top5_accuracy", "loss", "per_class", "confusion"),
        *("classes", "calibration_error", "temperature", "scaled_calibration_error", "tta", "protocol"),
        "coarse_accuracy",
    }
    assert evaluated["accuracy"] == mine["test_accuracy"]
    assert sum(map(sum, evaluated["confusion"])) == evaluated["images"] == 359
    weights = tmp_path / "runs" / "mine" / "best.safetensors"
    assert answer(cli("evaluate", weights, "--tta", "--json"))["tta"] is True
    assert f"accuracy {mine['test_accuracy']:.2%}" in cli("evaluate", "mine").stdout


def test_predict_keeps_the_contract(cli: Cli, mine: dict[str, Any], tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "white").save(tmp_path / "photo.jpg")
    predicted = answer(cli("predict", "mine", "photo.jpg", "--json"))
    for sure, is_sure in (("0.01", True), ("1", False)):
        assert answer(cli("predict", "mine", "photo.jpg", "--sure", sure, "--json"))[0]["sure"] is is_sure
    assert set(predicted[0]) == {"image", "label", "probability", "probabilities", "sure"}
    assert predicted[0]["sure"] is (predicted[0]["probability"] >= 0.5)
    assert len(predicted[0]["probabilities"]) == 10
    assert cli("predict", "mine", "photo.jpg", "--top", "2").stdout.count("%") == 2
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert "x.png" in cli("predict", "mine", "photo.jpg", "x.png", status=1).stderr
    assert "there is no image 'y.png'" in cli("predict", "mine", "y.png", status=2).stderr


def test_runs_keeps_the_contract(cli: Cli, mine: dict[str, Any]) -> None:
    listed = answer(cli("runs", "--json"))
    assert [set(row) for row in listed] == [{"name", "path", "status", "recipe", "epochs_done", "test_accuracy"}]
    assert (listed[0]["name"], listed[0]["status"], listed[0]["epochs_done"]) == ("mine", "finished", 1)
    assert listed[0]["test_accuracy"] == mine["test_accuracy"]
    assert "mine" in cli("runs").stdout
    assert "cifarlab train" in cli("runs", "--runs", "elsewhere").stdout


def test_a_run_is_not_overwritten(cli: Cli, mine: dict[str, Any], tmp_path: Path) -> None:
    before = (tmp_path / "runs" / "mine" / "run.json").read_text()
    assert "run 'mine' already exists" in cli("train", "lenet5", *QUICK, "--name", "mine", status=2).stderr
    assert "is finished. Train on with: cifarlab train --start-from" in cli("resume", "mine", status=2).stderr
    assert (tmp_path / "runs" / "mine" / "run.json").read_text() == before


@pytest.mark.slow
def test_reports_on_one_run_and_on_two(cli: Cli, mine: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "runs" / "mine", tmp_path / "runs" / "other")
    cli("report", "mine", "--out", "page.html")
    assert "<html" in (tmp_path / "page.html").read_text()
    assert "needs --out" in cli("report", "mine", "other", status=2).stderr
    cli("report", "mine", "other", "--out", "both.html")
    page = (tmp_path / "both.html").read_text()
    assert 'id="run-mine"' in page and 'id="run-other"' in page
    assert "there is no folder" in cli("report", "mine", "--out", "none/page.html", status=2).stderr


def test_recipes_and_recipe(cli: Cli) -> None:
    listed = answer(cli("recipes", "--json"))
    assert all(set(row) == {"name", "model", "epochs", "published"} for row in listed)
    assert {row["name"] for row in listed} >= {"keras6", "relabel/drop-truck", "fast90"}
    text = cli("recipe", "keras6").stdout
    assert text.startswith("#") and 'model = "keras6"' in text


def test_a_recipe_printed_trains_the_same(cli: Cli, mine: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "copy.toml").write_text(cli("recipe", "lenet5").stdout)
    other = answer(cli("train", "copy.toml", *QUICK, "--seed", "3", "--json"))
    assert other["test_loss"] == mine["test_loss"] and other["recipe"] == "copy"


def test_dry_run_creates_nothing(cli: Cli, tmp_path: Path) -> None:
    plan = answer(cli("train", "relabel/drop-truck", "--dry-run", "--json"))
    assert (plan["train"], plan["test"], len(plan["classes"]), plan["parameters"]) == (45_000, 9_000, 9, 71_832)
    assert not (tmp_path / "runs").exists()


def test_ones_own_folder_network_and_classes(cli: Cli, tmp_path: Path) -> None:
    make_images(tmp_path / "pets", {"cat": 30, "dog": 30, "10": 30, "2": 30})
    (tmp_path / "pets" / "cat" / "bad.jpg").write_text("no picture")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def Net(classes): return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, classes))\n"
    )
    ended = cli(
        *("train", "lenet5", "--data", "folder:pets", "--model", "net.py:Net", "--merge", "dog=cat"),
        *("--set", "epochs=8", "--set", "model_options={}", "--set", "batch_size=16", "--name", "pets", "--json"),
    )
    trained = answer(ended)
    assert trained["classes"] == ["2", "10", "cat"]
    assert trained["test_accuracy"] > 0.9
    assert "bad.jpg" in ended.stderr and "1 of 121 files skipped" in ended.stderr
    assert answer(cli("predict", "pets", "pets/2/0.png", "--json"))[0]["label"] == "2"
    assert answer(cli("evaluate", "pets", "--json"))["accuracy"] == trained["test_accuracy"]
    summary = answer(cli("summary", "net.py:Net", "--classes", "3", "--json"))
    assert summary["layers"][-1]["weights"] == 48 * 3 + 3


TARGETS = ("evaluate", "export", "train --start-from", "train lenet5 --dry-run --start-from")
ERRORS = [
    ("train keras5", "unknown recipe 'keras5': did you mean 'keras"),
    ("train lenet5 --drop trukc", "unknown class 'trukc': did you mean 'truck'"),
    ("train lenet5 --merge truck=automobil", "unknown class 'automobil': did you mean 'automobile'"),
    ("train lenet5 --merge truck", "must be FROM=INTO"),
    ("train lenet5 --set epoch=3", "unknown key 'epoch': did you mean 'epochs'"),
    ("train lenet5 --set epochs=-3", "epochs should be greater than 0, got -3"),
    ("train lenet5 --set epochs", "should be key=value"),
    ("train lenet5 --device gpu", "unknown device 'gpu': did you mean 'cuda'?"),
    ("train lenet5 --model keras44", "unknown model 'keras44': did you mean 'keras4'"),
    ("train lenet5 --model none.py:Net", "does not exist"),
    ("train lenet5 --data cifar", "unknown data set 'cifar': did you mean 'cifar10'"),
    ("train lenet5 --data folder:empty", "should contain a folder of images per class, at least two, got 0"),
    ("train lenet5 --data folder:none", "there is no folder"),
    ("train lenet5 --name a/b", "must be a plain name"),
    ("train --seed=-1", "seed should be greater than or equal to 0"),
    ("train none.toml", "cannot read none.toml: No such file or directory"),
    ("trian", "No such command 'trian'. Did you mean 'train'?"),
    ("train --nmae x", "--nmae"),
    ("predict none x.png", "unknown run 'none'"),
    ("predict none.safetensors x.png", "there is no weights file"),
    ("resume none", "unknown run 'none'"),
    ("report none", "unknown run 'none'"),
    ("summary keras66", "did you mean 'keras6'"),
    ("summary net.onnx", "summary does not read ONNX files"),
    (
        "train --start-from pretrained:fastnet --size 48",
        "size cannot be set together with start_from",
    ),
    ("train --freeze 2", "--freeze needs --start-from"),
    ("export pretrained:fastnet --out x.pt", "should end in .onnx"),
    ("export pretrained:fastnet --out x.safetensors", "should end in .onnx, or add --format safetensors"),
    ("evaluate pretrained:fastnet --data digits", "lacks: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; it has airplane, automobile"),
    ("recipe keras66", "did you mean 'keras6'"),
    *((f"{command} keras6", "unknown run 'keras6': did you mean 'pretrained:keras6'?") for command in TARGETS),
    ("predict Keras6 x.png", "did you mean 'pretrained:keras6'?"),
    (
        "report keras6",
        "unknown run 'keras6': there is no run. Train the recipe of this name with: cifarlab train keras6",
    ),
    ("train pretrained:keras6", "is not a recipe. Give it as --start-from pretrained:keras6"),
    ("train folder:pets", "is not a recipe. Give it as --data folder:pets"),
    ("train --data foldr:x", "unknown data set 'foldr:': did you mean 'folder:'?"),
    ("train keras4 --set model_options.norm=1", "keras4 has no options, got 'norm'. Print its source to change it"),
    ("train --lr 1", "No such option: --lr: write --set learning_rate=VALUE"),
    ("model keras66", "unknown model 'keras66': did you mean 'keras6'"),
    ("tune lenet5", "Missing option '--space': TOML file with the values to try for each key (see"),
    ("train --seed x", "Invalid value for '--seed': should be a whole number (see"),
    ("data get --source nowhere", "should be official, npm, hub, a URL, or an existing file or folder"),
]


@pytest.mark.parametrize(("command", "text"), ERRORS)
def test_wrong_input_is_an_error_of_one_line_and_creates_nothing(
    command: str, text: str, cli: Cli, tmp_path: Path, cifar10: Data
) -> None:
    (tmp_path / "empty").mkdir()
    ended = cli(*command.split(), status=2)
    assert text in ended.stderr and ended.stderr.count("\n") == 1
    assert ended.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_a_folder_that_cannot_be_written_is_an_error(cli: Cli) -> None:
    assert "cannot make the folder" in cli("train", "lenet5", *QUICK, "--runs", "/proc/runs", status=1).stderr


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_saved(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the system refuses the write in the same way."""
    command = [sys.executable, "-m", "cifarlab", "train", "lenet5", *QUICK, "--set", "epochs=2", "--name", "a"]
    limit = 200_000  # bytes: enough for the records of a run, not for its checkpoint

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=small_files, timeout=300)
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "cannot write" in errors[0] and "checkpoint.pt" in errors[0]
    record = json.loads((tmp_path / "runs" / "a" / "run.json").read_text())
    assert record["status"] == "failed" and "cannot write" in record["reason"]
    assert not list((tmp_path / "runs" / "a").glob(".*.pt"))  # no half file
    resumed = subprocess.run(
        [sys.executable, "-m", "cifarlab", "resume", "a", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert json.loads(resumed.stdout)["epochs"] == 2


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_ends_with_its_status_after_saving(number: int, status: int, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "cifarlab",
        "train",
        "lenet5",
        "--data",
        "digits",
        "--set",
        "epochs=500",
        "--name",
        "a",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 1/500  loss"):
            break
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 15  # a second or two where nothing else runs
    assert process.returncode == status
    assert (
        f"stopped by {signal.Signals(number).name}, everything is saved: go on with: cifarlab resume runs/a" in errors
    )
    assert "error:" not in errors  # nothing has failed
    assert json.loads((tmp_path / "runs" / "a" / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(
    "command", ["evaluate {}", "compare {} b", "predict {} a.png", "train lenet5 --data folder:{}"]
)
def test_a_name_of_thousands_of_letters_is_wrong_usage(cli: Cli, command: str) -> None:
    errors = cli(*command.format("a" * 5_000).split(), status=2).stderr
    assert "is too long" in errors and len(errors) < 200


def test_no_network_and_nothing_cached_names_the_three_ways(cli: Cli, tmp_path: Path) -> None:
    empty = tmp_path / "cache"
    ended = cli("data", "get", "--source", "http://127.0.0.1:9/cifar.tar.gz", status=1, CIFARLAB_HOME=str(empty))
    for way in ("cifarlab data get cifar10;", "--source URL", "--source PATH"):
        assert way in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "TERM": "dumb"}]
)
def test_consoles_without_unicode_or_colours_work(environment: dict[str, str], cli: Cli) -> None:
    ended = cli("train", "lenet5", *QUICK, own_process=True, **environment)
    assert "test accuracy" in ended.stdout and "epoch 1/1" in ended.stderr
    assert cli("recipes", own_process=True, **environment).stdout.isascii()


@pytest.mark.slow
def test_a_backend_of_matplotlib_that_is_not_installed_is_not_needed(cli: Cli, tmp_path: Path) -> None:
    command = ("data", "show", "digits", "--out", "x.png")
    cli(*command, own_process=True, MPLBACKEND="a-notebooks-own")
    assert (tmp_path / "x.png").exists()


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    """Runs under a pseudo-terminal, as a person would see it."""
    import pty

    main, side = pty.openpty()
    command = [sys.executable, "-m", "cifarlab", "train", "lenet5", "--data", "digits", "--set", "epochs=4"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=side,
        stderr=side,
        stdin=side,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(side)
    printed = b""
    try:
        while block := os.read(main, 65536):
            printed += block
    except OSError:  # the other end has gone
        pass
    assert process.wait() == 0
    text = printed.decode()
    assert "\x1b[" in text and "━" in text and "epoch 4/4" in text


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m cifarlab recipe keras6 | head -1"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout.startswith("#") and "Traceback" not in ended.stderr


def test_a_training_goes_on_when_nobody_reads_any_more(tmp_path: Path) -> None:
    train = f"{sys.executable} -m cifarlab train lenet5 --data digits --set epochs=2 --runs {tmp_path} --name piped"
    ended = subprocess.run(["bash", "-c", f"{train} 2>&1 | head -1"], capture_output=True, text=True)
    assert ended.stdout and "\n" not in ended.stdout.rstrip() and "Traceback" not in ended.stderr
    run = cifarlab.Run(tmp_path / "piped")
    assert run.status == "finished" and len(run.history) == 2


def test_closed_output_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m cifarlab runs --runs {tmp_path}"
    for closed, start in ((">&-", ""), ("2>&-", "No runs in")):
        ended = subprocess.run(["bash", "-c", f"{command} {closed}"], capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "") and ended.stdout.startswith(start)


def test_a_full_output_is_named() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-m", "cifarlab", "recipes"], stdout=full, stderr=-1, text=True)
    assert ended.returncode == 1 and ended.stderr.startswith("error: cannot print the results: no space left on device")


def test_results_of_an_unfinished_run_come_with_a_warning(cli: Cli, tmp_path: Path) -> None:
    cli("train", "lenet5", "--data", "digits", "--set", "epochs=1", "--runs", tmp_path, "--name", "a")
    cifarlab.Run(tmp_path / "a").update(status="interrupted")
    ended = cli("evaluate", "a", "--runs", tmp_path)
    assert "a is interrupted: its weights come from the first 1 of 1 epochs" in ended.stderr
    assert "A test now is not that of its protocol, which comes after the last epoch" in ended.stderr


def test_the_debug_flag_shows_the_traceback(cli: Cli) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "cifarlab", "--debug", "train", "keras5"], capture_output=True, text=True
    )
    assert ended.returncode == 2 and "Traceback" in ended.stderr
    assert cli("--version").stdout.startswith("cifarlab ")


def test_doctor_describes_the_machine(cli: Cli) -> None:
    facts = answer(cli("doctor", "--json"))
    assert facts["torch"] and facts["cores"] >= 1 and isinstance(facts["fast_bf16"], bool)
    text = cli("doctor").stdout
    assert "processor" in text and not {"None", "True", "False"} & set(text.split())


def test_every_command_has_help() -> None:
    for command in app.registered_commands:
        assert command.callback is not None and command.callback.__doc__
    for name, parsed in cast(Any, get_command(app)).commands.items():
        assert all(parameter.help for parameter in parsed.params), name


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("width", "is_list"), [(80, False), (20, False), (17, True)])
def test_tables_are_no_wider_than_the_terminal(width: int, is_list: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    table(("recipe", "accuracy"), [("a long name", "93.9%"), ("b", "9.0%")], ("accuracy",))
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())  # without bold
    lines = text.splitlines()
    assert all(len(line) <= width for line in lines)
    assert all(value in text for value in ("93.9%", "9.0%", "accuracy"))  # nothing is cut
    assert (lines[1:2] == ["  accuracy  93.9%"]) == is_list


def test_outside_a_terminal_a_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    table(("recipe", "accuracy"), [("a\nlong name", "93.99%"), ("猫", "9.00%")], ("accuracy",))
    assert capsys.readouterr().out.splitlines() == [
        "recipe        accuracy",
        "a long name     93.99%",
        "猫               9.00%",
    ]


def test_a_dry_run_tells_changed_settings_and_a_rough_time(cli: Cli, tmp_path: Path) -> None:
    words = ("train", "lenet5", "--data", "digits", "--dry-run", "--set", "epochs=3")
    plan = answer(cli(*words, "--json"))
    assert plan["changed"] == {"dataset": "digits", "epochs": 3}
    assert 0.01 < plan["seconds"] < 60  # 120 steps of some milliseconds
    assert answer(cli(*words, "--set", "time_budget=0.0001", "--json"))["seconds"] == pytest.approx(0.006)
    printed = cli(*words, "--merge", "7=1", "--set", "augment.flip=true").stdout
    assert "dataset = digits; augment.flip = true; epochs = 3; merge.7 = 1" in printed
    assert re.search(r"seconds +about \d+ s, by a few steps measured on this machine now", printed)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_refuses_what_the_training_would(cli: Cli, tmp_path: Path) -> None:
    errors = cli(
        "train", "lenet5", "--data", "digits", "--dry-run", "--name", "a/b", "--runs", tmp_path, status=2
    ).stderr
    assert "without / *" in errors
    for option in ("--checkpoint-every=5x", "--track=wandb"):
        cli("train", "lenet5", "--data", "digits", "--dry-run", option, "--runs", tmp_path, status=2)
    picture = tmp_path / "photo.jpg"
    picture.write_bytes(b"?")
    assert "is not a recipe: " in cli("train", picture, "--dry-run", status=2).stderr
    errors = cli("train", "lenet5", "--data", "digits", "--dry-run", "--merge", "1=1", status=2).stderr
    assert "class '1' cannot become itself" in errors
    plan_text = cli(
        "train", "lenet5", "--data", "digits", "--dry-run", "--set", "time_budget=2", "--runs", tmp_path
    ).stdout
    both = ("--set", 'drop=["3"]', "--drop", "4", "--set", 'merge.1="2"', "--merge", "5=6")
    plan = answer(cli("train", "lenet5", "--data", "digits", "--dry-run", *both, "--runs", tmp_path, "--json"))
    assert plan["classes"] == ["0", "2", "6", "7", "8", "9"]
    assert "0, 1, 2" in plan_text and "2 minutes" in plan_text


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("train --lr 0.1", ": write --set learning_rate=VALUE (see cifarlab train --help)"),
        ("study keras6 --epochs 3", "--epochs: write --set epochs=VALUE"),
        ("tune keras6 --batch-size=3", "--batch-size: write --set batch_size=VALUE"),
        ("evaluate a --epochs 3", "No such option: --epochs (see"),
        ("train --dropout 0.5", "--dropout: write --set input_dropout=VALUE"),
        ("tune keras6 --flip", "--flip: write --set augment.flip=VALUE"),
        ("lr-find keras6 --set dropout=0.5", "unknown key 'dropout': did you mean 'input_dropout'?"),
        ("train --checkpoint-every 5x --data digits", "--checkpoint-every must be steps or a time"),
        ("train --data pets", "unknown data set 'pets': did you mean 'folder:pets'?"),
        ("data info my-things", "did you mean 'folder:my-things'"),
    ],
)
def test_hints_say_what_was_probably_meant(command: str, hint: str, cli: Cli, tmp_path: Path) -> None:
    for name in ("pets", "my-things"):
        (tmp_path / name).mkdir()
    assert hint in cli(*command.split(), status=2).stderr


def test_files_that_are_no_targets_are_called_so(cli: Cli, tmp_path: Path) -> None:
    make_images(tmp_path / "pets", {"cat": 1})
    picture = next((tmp_path / "pets").rglob("*.png"))
    for command in (("predict", picture, picture), ("import", picture), ("import", picture, "--model", "net.py:Net")):
        assert "an image. Classify it with: cifarlab predict TARGET " in cli(*command, status=2).stderr
    assert "neither the folder of a run nor a weights file" in cli("evaluate", tmp_path / "pets", status=2).stderr
    explained = cli("predict", "pretrained:fastnet", picture, "--explain", picture, status=2).stderr
    assert "must be a folder, but" in explained
    assert "matches the pattern 'zz*'" in cli("compare", "zz*", "--runs", tmp_path, status=2).stderr


def test_tables_have_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    table(("recipe",), [("\x1b]0;title\x07\x1b[31mred",)])
    assert capsys.readouterr().out == "recipe\n]0;title[31mred\n"


def test_help_survives_python_without_docstrings(tmp_path: Path) -> None:
    for words, text in (((), "Train a network and write a run folder"), (("data",), "Draw images of every class")):
        command = [sys.executable, "-OO", "-m", "cifarlab", *words, "--help"]
        assert text in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_a_user_without_a_home_folder_trains_and_gets_a_hint(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "CIFARLAB_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(*_: object) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert "Set CIFARLAB_HOME to a folder for downloads" in cli("doctor").stdout
    assert "Set CIFARLAB_HOME" in cli("data", "info", "cifar10", status=2).stderr
    cli("train", "lenet5", "--data", "digits", "--set", "epochs=1", "--name", "a", "--json")
    assert cli("evaluate", "a").stdout
