"""Networks are found by name, built from the user's own files, and checked before they are used."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from cifarlab.errors import UsageError
from cifarlab.inference.classifier import make_classifier
from cifarlab.inference.weights_file import load_weights, save_weights
from cifarlab.models import build_model, model_names, register, registry, resolve_model_name, try_step
from cifarlab.models.registry import all_options, network_sha256, source_of, source_sha256
from cifarlab.models.summary import layer_table
from every_network import networks

NETWORK = "from torch import nn\ndef net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))\n"
OTHER = NETWORK.replace("nn.Flatten()", "nn.Tanh(), nn.Flatten()")


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A function that runs code as a cell of a notebook, and returns the notebook's module."""
    numbers, notebook = count(), ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))

    def run(code: str) -> ModuleType:
        name = f"<cell {next(numbers)}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        exec(compile(code, name, "exec"), vars(notebook))
        return notebook

    return run


def test_ones_own_network_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes, width=4):\n"
        "        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "        self.head = nn.Linear(width, classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.body(x))\n"
        "def bad(classes): return nn.Sequential(nn.Flatten(), nn.Linear(3072, 3072))\n"
        "def broken(classes): return nn.Sequential(nn.Flatten(), nn.Linear(5, classes))\n"
    )
    network = build_model(f"{file}:Net", classes=3, options={"width": 8})
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert layer_table(network)[-1].weights == 27
    for name, text in (
        ("Nett", "did you mean 'Net'"),
        ("bad", r"must return logits \[2, 10\], returned \[2, 3072\]"),
        ("broken", r"layer '1', Linear\(in_features=5.*got \[2, 3072\].*mat1 and mat2 shapes"),
    ):
        with pytest.raises(UsageError, match=text):
            build_model(f"{file}:{name}")
    with pytest.raises(UsageError, match=r"unknown option of .*: did you mean 'width'"):
        build_model(f"{file}:Net", options={"widht": 8})
    with pytest.raises(UsageError, match=r"the file 'nowhere\.py' does not exist"):
        build_model("nowhere.py:Net")


@pytest.mark.parametrize("name", networks())
def test_the_source_of_a_network_makes_the_same_network(name: str, tmp_path: Path) -> None:
    file, function = tmp_path / "mine.py", name.replace("-", "_")
    file.write_text(source_of(name))
    networks = []
    for model in (name, f"{file}:{function}"):
        torch.manual_seed(0)
        networks.append(build_model(model, classes=3, size=32))
    assert str(networks[0]) == str(networks[1])
    weights = [network.state_dict() for network in networks]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0] | weights[1])
    try_step(networks[1], 2, 32)
    assert "register" not in file.read_text()


def test_ones_own_file_is_run_as_python_would_run_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "widths.py").write_text("WIDTH = 6")
    file = tmp_path / "with_helper.py"
    file.write_text(
        "from torch import nn\n"
        "from widths import WIDTH\n"
        "print('loading')\n"
        "def net(classes):\n"
        "    print('building')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, WIDTH), nn.Linear(WIDTH, classes))\n"
        "def fixed(): return nn.Sequential(nn.Flatten(), nn.Linear(3072, 7))\n"
        "def nothing(classes): return nn.Flatten()\n"
        "def ends(classes): raise SystemExit(0)\n"
    )
    assert build_model(f"{file}:net", classes=4)(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    printed = capsys.readouterr()
    assert printed.out == "" and "loading" in printed.err and "building" in printed.err
    assert str(tmp_path) not in sys.path
    for name, text in (
        ("fixed", r"returned \[2, 7\]. Add a parameter `classes`"),
        ("nothing", "has no weights to train"),
        ("ends", "SystemExit: 0"),
    ):
        with pytest.raises(UsageError, match=text):
            build_model(f"{file}:{name}")
    with pytest.raises(UsageError, match=r"write net\.py:NAME"):
        build_model("net.py")


TRAININGS = (
    "cifarlab.train('lenet5', name='a', force=True)",
    "cifarlab.resume('a')",
    "cifarlab.run_study('lenet5', vary={'seed': '0:2'})",
    "cifarlab.tune('lenet5', {'learning_rate': {'low': 0.01, 'high': 0.1}})",
    "cifarlab.find_learning_rate(cifarlab.recipe('lenet5', dataset='digits'))",
    "cifarlab.CifarClassifier('lenet5').fit(numpy.random.randint(0, 256, (30, 32, 32)), list(10 * 'abc'))",
    "cifarlab.build_model(__file__ + ':net')",
)


@pytest.mark.parametrize("training", TRAININGS)
def test_loading_a_network_starts_no_training(
    training: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = "def net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))\n"
    imports = "import cifarlab, numpy\nfrom torch import nn\n"
    (tmp_path / "script.py").write_text(f"{imports}{network}{training}\nprint('trained')\n")
    (tmp_path / "early.py").write_text(f"{imports}{training}\n{network}")
    build_model("script.py:net")
    printed = capsys.readouterr().err
    assert "script.py trains wherever its network is loaded. Put what trains below" in printed
    assert "\ntrained" not in printed and not (tmp_path / "runs").exists()
    with pytest.raises(UsageError, match=r"early\.py trains wherever"):
        build_model("early.py:net")


def test_the_checksum_of_ones_own_network_follows_its_source(tmp_path: Path, cell: Callable[[str], ModuleType]) -> None:
    assert source_sha256("keras4") == source_sha256(f"{tmp_path / 'missing.py'}:Net") == ""
    file, sums = tmp_path / "net.py", []
    for number in range(2):
        file.write_text(f"width = {number}")
        sums.append(source_sha256(f"{file}:Net"))
        typed = f"class Typed:\n    def forward(self, images):\n        return {number}\n"
        sums.append(source_sha256(resolve_model_name(cell(typed).Typed)))
    assert len(set(sums)) == 4 and "" not in sums


def test_a_step_that_fails_names_the_layer() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    try_step(network, images=2, size=8)
    with pytest.raises(
        UsageError, match=r"does not train on batches of 1 at 8x8 pixels: layer '2', BatchNorm1d.*got \[1, 3\]"
    ):
        try_step(network, images=1, size=8)


def test_a_registered_function_is_a_network() -> None:
    @register
    def only_for_tests(classes: int = 10) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))  # fits tests that follow

    assert "only-for-tests" in model_names()
    assert build_model("only-for-tests", classes=4)(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert resolve_model_name(only_for_tests) == "only-for-tests"


def test_what_no_later_process_could_load_is_refused(cell: Callable[[str], ModuleType], tmp_path: Path) -> None:
    def linear(classes: int) -> nn.Module:
        return nn.Linear(3072, classes)

    class Local(nn.Linear):
        pass

    notebook = cell(f"{NETWORK}class Outer:\n    Net = type('Net', (nn.Linear,), {{}})\n")
    for model in (Local, linear, lambda classes: linear(classes), notebook.Outer.Net):
        with pytest.raises(UsageError, match=r"could not be loaded again\. Define it at the top level of a file"):
            resolve_model_name(model)
    for model in (nn.Flatten(), partial(linear)):
        with pytest.raises(UsageError, match=r"must be a name, a class or a function, got (Flatten|partial)"):
            resolve_model_name(model)
        with pytest.raises(UsageError, match="must be a name, a class or a function"):
            register(model)
    script = tmp_path / "script.py"
    notebook.__file__ = str(script)  # from here on a script
    script.write_text(f"if __name__ == '__main__':\n    {NETWORK.splitlines()[1]}\n")
    with pytest.raises(UsageError, match=r"'net' could not be loaded again.* or below `if __name__"):
        resolve_model_name(notebook.net)
    register(linear)
    linear.__code__ = (lambda classes: nn.Flatten()).__code__
    register(linear)  # the same object

    def make() -> Callable[..., nn.Module]:
        def linear(classes: int) -> nn.Module:
            return nn.Flatten()

        return linear

    with pytest.raises(ValueError, match="network 'linear' is already registered by"):
        register(make())


def test_two_networks_of_one_name_in_a_file_are_refused(cell: Callable[[str], ModuleType], tmp_path: Path) -> None:
    (file := tmp_path / "script.py").write_text(NETWORK + OTHER)
    script = cell(NETWORK)
    script.__file__ = str(file)
    assert resolve_model_name(script.net) == resolve_model_name(cell(NETWORK).net) == f"{file}:net"  # run again
    with pytest.raises(UsageError, match=r"script\.py:net is defined twice"):
        resolve_model_name(cell(OTHER).net)
    file.write_text(OTHER)  # edited and loaded again
    assert resolve_model_name(script.net) == f"{file}:net"


def test_a_network_that_is_defined_anew_is_not_that_of_earlier_weights(
    cell: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    decorated = NETWORK.replace("def net", "import cifarlab\n@cifarlab.register\ndef decorated")
    for name, code in (("net", NETWORK), ("decorated", decorated)):
        assert resolve_model_name(vars(cell(code))[name]) == name
        about = {"origins": {"model": source_sha256(name)}}
        weights = tmp_path / f"{name}.safetensors"
        save_weights(make_classifier(name, {}, ("a", "b"), 32, "unit"), weights, about)
        resolve_model_name(vars(cell(code))[name])
        assert load_weights(weights).model == name
        resolve_model_name(vars(cell(code.replace("nn.Flatten()", "nn.Tanh(), nn.Flatten()")))[name])
        with pytest.raises(UsageError, match=f"the network {name} had another definition when this was trained"):
            load_weights(weights)


def test_a_networks_own_error_is_not_blamed_on_the_images(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def net(classes):\n    raise ValueError('my own mistake')\n")
    with pytest.raises(UsageError, match=r"bad\.py:net cannot be built: ValueError: my own mistake$"):
        build_model(f"{tmp_path / 'bad.py'}:net")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown model 'kears4': did you mean 'keras4'"):
        build_model("kears4")
    with pytest.raises(UsageError, match="unknown activation 'tanhh': did you mean 'tanh'"):
        build_model("lenet5", options={"activation": "tanhh"})


def test_a_users_error_of_any_kind_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "@dataclass\n"
        "class Settings:\n"
        "    width: int = 3\n"
        "def net(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes).undefined)\n"
    )
    with pytest.raises(UsageError, match=r"AttributeError: .*undefined"):
        build_model(f"{file}:net")


def test_networks_of_one_source_are_told_apart() -> None:
    def make(width: int, rate: float = 0.5) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, width), nn.Dropout(rate), nn.Linear(width, 10))

    sums = {network_sha256(make(*options)) for options in ((2,), (32,), (2, 0.1))}
    assert len(sums) == 3 and network_sha256(make(2)) in sums
    assert all_options("lenet5", {"activation": "relu"}).keys() > {"activation"} and not all_options("no", {})


@pytest.mark.parametrize("classes", [0, -1])
def test_a_network_has_outputs(classes: int) -> None:
    with pytest.raises(UsageError, match=f"classes should be at least 1, got {classes}"):
        build_model("lenet5", classes=classes)


def test_ones_own_network_may_ask_for_the_number_of_channels(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "def asks(classes, in_channels=3): return nn.Sequential(nn.Conv2d(in_channels, classes, 8), nn.Flatten())\n"
        "def width(in_channels=16): return nn.Sequential(nn.Conv2d(3, in_channels, 8), nn.Flatten())\n"
        "def channels(classes, channels=4): return nn.Sequential(\n"
        "    nn.Conv2d(3, channels, 8), nn.Flatten(), nn.Linear(channels, classes))\n"
        "def gray(classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    for in_channels in (1, 3):
        network = build_model(f"{file}:asks", classes=2, size=8, in_channels=in_channels)
        assert network(torch.zeros(1, in_channels, 8, 8)).shape == (1, 2)
    assert build_model(f"{file}:width", classes=16, size=8)
    assert build_model(f"{file}:asks", classes=2, size=8, options={"in_channels": 3})
    wide = build_model(f"{file}:channels", classes=2, size=8, options={"channels": 6})
    assert wide.state_dict()["0.weight"].shape == (6, 3, 8, 8)
    assert build_model(f"{file}:gray", classes=2, size=8, in_channels=1)
    with pytest.raises(UsageError, match=r"It takes images of one channel: set channels to .mono.\.$"):
        build_model(f"{file}:gray", classes=2, size=8)
    with pytest.raises(UsageError, match=r"It takes images of three channels: set channels to .rgb.\.$"):
        build_model(f"{file}:channels", classes=2, size=8, in_channels=1)
    with pytest.raises(UsageError, match=r"\(in_channels\) should be 1 or 3, got 2"):
        build_model("lenet5", in_channels=2)
