"""Networks in the user's own files: which files may be run, copies of their source, and files that they import."""

from __future__ import annotations

import importlib.util
import io
import marshal
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cifarlab
from cifarlab import Run, load_data
from cifarlab.board import predictor_child
from cifarlab.board.predictor_child import PredictionRequest
from cifarlab.cli import run
from cifarlab.errors import UntrustedFile, UsageError
from cifarlab.inference.weights_file import load_weights, save_weights
from cifarlab.models import build_model, own_networks
from cifarlab.models.own_networks import as_trained, keep_source, source_sum, trust
from conftest import Cli

NETWORK = "from torch import nn\ndef net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a user who trusts nothing."""
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(own_networks, "_trusted", set())
    monkeypatch.setattr(own_networks, "_run_here", set())
    return tmp_path / "home"


def forget() -> None:
    """Begin as a new process does."""
    own_networks._run_here.clear()
    own_networks._trusted.clear()


def test_a_network_is_built_as_it_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "layers.py").write_text("from .sizes import SIZE\n")
    (tmp_path / "parts" / "sizes.py").write_text("SIZE = 3072\n")
    (tmp_path / "random.py").write_text("raise SystemExit('not imported')\n")
    text = "import random, torch\nfrom torch import nn\nfrom parts.layers import SIZE\n"
    text += "def net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(SIZE, classes))\n"
    (file := tmp_path / "mine.py").write_text(text)
    name, run = f"{file}:net", tmp_path / "run"
    keep_source(name, run / "network")
    forget()
    sha256, names = source_sum(file), ["mine.py", "parts/layers.py", "parts/sizes.py"]
    assert [path.relative_to(run / "network").as_posix() for path in sorted(run.rglob("*.py"))] == names
    assert as_trained(name, sha256, run) == name and source_sum(run / "network" / "mine.py") == sha256
    (tmp_path / "parts" / "sizes.py").write_text("SIZE = 'changed'\n")
    assert (changed := source_sum(file)) != sha256
    sys.modules.pop("parts", None)
    copy = as_trained(name, sha256, run)
    assert copy != name and build_model(copy, classes=3)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(UsageError, match=r"cannot be built: TypeError.*got str"):  # with its own file, not the copy's
        build_model(name, classes=3)
    assert capsys.readouterr().err == ""
    keep_source(name)  # trained once more, as it is now
    for checksum in ("0" * 64, "../home/networks/" + sha256):  # unknown, and not a checksum
        assert as_trained(name, checksum, run) == name
        assert "mine.py has changed since" in capsys.readouterr().err
    assert as_trained(name, changed, run) == as_trained(name, "", run) == name


def test_only_what_the_checksum_covers_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("parts", "package", "__pycache__"):
        (tmp_path / folder).mkdir()
    for name in ("sched.py", "numpy.py", "native.cpython-311-x86_64-linux-gnu.so", "parts/unnamed.py", "gone.pyc"):
        (tmp_path / name).write_text("raise SystemExit('run')\n")
    (tmp_path / "layers.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Size:\n    value: int = 3072\n"
    )
    (tmp_path / "package" / "__init__.py").write_text("from .inner import Size\n")
    (tmp_path / "package" / "inner.py").write_text("from layers import Size\n")
    modules = ("sched", "numpy", "package", "layers")
    for name in ("native", "gone", "parts.unnamed"):  # by other means
        text = f"import importlib, {', '.join(modules)}\nfrom pathlib import Path\nassert Path(__file__).is_file()\n"
        text += f"try: importlib.import_module({name!r})\nexcept ModuleNotFoundError: pass\nelse: raise ValueError\n"
        (file := tmp_path / "net.py").write_text(text + NETWORK.replace("3072", "package.Size().value"))
        forged = compile("raise SystemExit('run')", "layers.py", "exec")
        bytecode = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(forged)
        for module in ("layers", "net"):  # 1: Python does not compare it with the source
            cached = Path(importlib.util.cache_from_source(str(tmp_path / f"{module}.py")))
            cached.write_bytes(bytecode)
        for module in ("sched", "layers", "package", "package.inner"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        assert build_model(f"{file}:net", classes=3)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
        assert {each.name for each in own_networks.source_files(file)} == {
            "net.py",
            "layers.py",
            "__init__.py",
            "inner.py",
        }


def test_files_from_elsewhere_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("own", "run", "run/network"):
        (tmp_path / folder).mkdir()
    (own := tmp_path / "own" / "net.py").write_text(f"from os import system\n{NETWORK}")
    (foreign := tmp_path / "run" / "net.py").write_text(f"import os\n{NETWORK}")
    (tmp_path / "link.py").symlink_to(foreign)
    shutil.copy(own, tmp_path / "run" / "same.py")
    keep_source(f"{own}:net")
    forget()
    refused = r"SHA-256 [0-9a-f]{64}\) would be run, but was not trained here.* --trust /"
    for name in (
        f"{foreign}:net",
        "run/net.py:net",
        "/proc/self/cwd/run/net.py:net",
        f"{tmp_path}/own/../run/net.py:net",
        f"{tmp_path}/link.py:net",
        f"{tmp_path}/run/same.py:net",  # files beside it may differ
        f"{own}:system",  # not what was trained
    ):
        for sha256 in ("", source_sum(foreign), "0" * 64):
            with pytest.raises(UntrustedFile, match=refused):
                as_trained(name, sha256, tmp_path / "run")
    own.write_text(f"import os\n{NETWORK}")  # somebody has changed it
    with pytest.raises(UntrustedFile):
        as_trained(f"{own}:net", source_sum(own), tmp_path / "run")
    with pytest.raises(UsageError, match=r"gone\.py does not exist"):
        as_trained(f"{tmp_path}/gone.py:net", "", tmp_path)
    assert as_trained("keras4", "", tmp_path) == "keras4"


def test_trust_is_for_a_file_and_remembered_for_its_content(tmp_path: Path) -> None:
    (network := tmp_path / "run" / "network").mkdir(parents=True)
    (file := network / "net.py").write_text(NETWORK)
    name, sha256 = "/home/somebody/net.py:net", source_sum(file)
    with pytest.raises(UntrustedFile, match=r"network/net\.py \(SHA-256 .* would be run") as caught:
        as_trained(name, sha256, tmp_path / "run")
    for wrong in (tmp_path, "gone.py", __file__.replace(".py", ".txt")):
        with pytest.raises(UsageError, match="--trust must be a Python file, got"):
            trust(wrong)
    assert f"cifarlab.trust({str(file)!r})" in str(caught.value)
    with pytest.raises(UsageError, match=r"got 'gone\.py', which does not exist"):
        trust("gone.py")
    trust(caught.value.file)
    assert as_trained(name, sha256, tmp_path / "run") == f"{file}:net"
    forget()
    assert build_model(as_trained(name, sha256, tmp_path / "moved"))  # by the copy in the cache
    file.write_text(f"import os\n{NETWORK}")
    with pytest.raises(UntrustedFile):
        as_trained(name, source_sum(file), tmp_path / "run")


def test_others_cannot_write_the_list_of_trusted_sources(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "net.py").write_text(NETWORK)
    name, sha256 = f"{file}:net", source_sum(file)
    keep_source(name)
    (store,) = cache.iterdir()
    assert (store.stat().st_mode & 0o777, (store / "trusted.jsonl").stat().st_mode & 0o777) == (0o700, 0o600)
    forget()
    store.chmod(0o777)
    with pytest.raises(UntrustedFile):
        as_trained(name, sha256, tmp_path)
    store.rename(tmp_path / "elsewhere")
    store.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").chmod(0o700)
    with pytest.raises(UntrustedFile):
        as_trained(name, sha256, tmp_path)
    store.unlink()
    store.write_text("")  # so that nothing can be kept
    keep_source(name)
    assert "no copy of" in capsys.readouterr().err
    assert as_trained(name, sha256, tmp_path) == name  # in this process


def test_a_softmax_at_the_end_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\n"
        "def logits(classes): return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))\n"
        "def soft(classes): return logits(classes).append(nn.Softmax(1))\n"
        "def relu(classes): return logits(classes).append(nn.ReLU())\n"
    )
    for name in ("logits", "relu", "soft"):
        cifarlab.train(model=f"{file}:{name}", data=load_data("digits"), name=name, runs=tmp_path)
        warned = "the network gives probabilities, but the loss takes logits" in capsys.readouterr().err
        assert warned == (name == "soft")


def test_a_file_that_calls_functions_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "net.py").write_text(f"'Text.'\nWIDTH = 3\n{NETWORK}if __name__ == '__main__':\n    net(3)\n")
    assert own_networks.repetition_note(f"{file}:net") == own_networks.repetition_note("keras4") == ""
    with monkeypatch.context() as patch:
        patch.setitem(own_networks.given_sums, "typed", "")
        assert "typed stands in no file: define it again" in own_networks.repetition_note("typed")
    file.write_text(f"{NETWORK}run = print('train')\n")
    assert "is run again" in own_networks.repetition_note(f"{file}:net")


@pytest.fixture
def foreign(copied_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run from another machine, `runs/a`, with a network's file that leaves a trace when it is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    moved = Run(copied_run.path.rename(tmp_path / "runs" / "a"))
    (moved.path / "network").mkdir()
    (file := moved.path / "network" / "net.py").write_text(
        "from pathlib import Path\nfrom cifarlab import build_model\n"
        f"Path({str(tmp_path / 'trace')!r}).touch()\n"
        f"def net(classes, size): return build_model('lenet5', options={dict(moved.recipe.model_options)!r})\n"
    )
    origins, model = {"model": source_sum(file)}, "/home/somebody/net.py:net"
    moved.update(recipe=moved.recipe.changed({"model": model}), origins=origins, sums={})
    origin = {"origins": origins, "identity": moved.record.identity}
    moved.write_checkpoint({**(moved.read_checkpoint() or {}), "identity": moved.record.identity})
    for name in ("best", "last"):
        classifier = load_weights(path := moved.path / f"{name}.safetensors")
        own = replace(classifier, model=model, model_options={})
        save_weights(own, path, {**classifier.about, **origin})
    return Run(moved.path)


def test_no_command_runs_code_from_elsewhere(foreign: Run, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text("[learning_rate]\nlow = 0.01\nhigh = 0.1\n")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    for command in (["compare", "a"], ["runs"]):
        cli(*command)
    begin = ["--set", "start_from=a", "--data", "digits"]
    commands = [["evaluate", "a"], ["predict", "a", "a.png"], ["export", "a"], ["summary", "a"], ["rerun", "a"]]
    commands += [["data", "issues", "a"], ["train", "--start-from", "a", "--data", "digits"]]
    commands += [["lr-find", "lenet5", *begin], ["tune", "lenet5", "--space", "space.toml", *begin]]
    commands += [["study", "lenet5", "--vary", "seed=1", *begin], ["resume", "a"]]
    for command in commands:
        if command[0] == "resume":
            foreign.update(status="interrupted")
        assert "network/net.py (SHA-256" in cli(*command, status=2).stderr, command
    with pytest.raises(UntrustedFile):
        Run(foreign.path).predict("a.png")
    request = PredictionRequest(str(foreign.path), 1, False, (tmp_path / "a.png").read_bytes())
    assert [type(answer) for answer in predictor_child.answer([request], 10**6)] == [UntrustedFile]
    assert not (tmp_path / "trace").exists() and [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]


def test_code_from_elsewhere_is_run_with_leave(
    foreign: Run, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed, status in (("", 2), ("n\n", 2), ("y\n", 0)):
        terminal = io.StringIO(typed)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", terminal)
        assert run(["summary", "runs/a"]) == status
        assert "network/net.py now, and remember it as trusted? [y/N]" in capsys.readouterr().err
        assert (tmp_path / "trace").exists() == (status == 0)
    forget()
    monkeypatch.setattr(sys, "stdin", None)
    shutil.rmtree(tmp_path / "home")
    source = foreign.path / "network" / "net.py"
    assert "must be a Python file" in cli("evaluate", "a", "--trust", foreign.path, status=2).stderr
    cli("evaluate", "a", "--trust", source)
    forget()
    assert foreign.evaluate().accuracy == foreign.results["test_accuracy"]
    foreign.update(status="interrupted")
    cli("resume", "a")
