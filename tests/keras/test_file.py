"""Keras files of all versions are read correctly; unsupported, damaged and hostile files are refused in one line."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from keras_files import FILES, SMALL_WEIGHTS, conv, layer, sequential, small, write_h5, write_keras

from cifarlab import UsageError
from cifarlab.keras import architecture, hdf5
from cifarlab.keras.file import read_keras_file, unwrap
from cifarlab.keras.layer_readers import ACTIVATIONS, Layer, Origin, read_layer
from cifarlab.keras.layer_settings import AUGMENTATIONS, SETTINGS
from cifarlab.limited import reading
from cifarlab.models.keras_graph import LAYERS, Inputs
from cifarlab.models.keras_graph.layers_without_weights import AXIS_ACTIVATIONS, ELEMENTWISE_ACTIVATIONS, MERGES

KERAS_2 = Origin((2, 2, 4), "tensorflow")
HANGS, CRASHES = 17, 851  # seeds of `damaged` on which HDF5 2.0 does that


def test_reading_needs_neither_keras_nor_torch(tmp_path: Path) -> None:
    write_h5(tmp_path / "m.h5", small())
    code = (
        "import sys, pathlib, cifarlab.keras.file; cifarlab.keras.file.read_keras_file(pathlib.Path('m.h5')); "
        "print([name for name in ('keras', 'tensorflow', 'torch', 'h5py', 'pickle') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == "['pickle']\n"  # NumPy's own


def test_what_a_file_holds(tmp_path: Path) -> None:
    file = read_keras_file(write_h5(tmp_path / "m.h5", small(layer("Activation", activation="relu"))))
    assert [layer.kind for layer in file.graph.layers] == [
        *("Conv2D", "Activation", "GlobalAveragePooling2D", "Dense", "Activation")
    ]
    assert file.graph.nodes == [[0, 0], [1, 1], [2, 2], [3, 3], [4, 4]] and file.graph.output == 5
    assert (file.input_shape, file.version, file.backend) == ([8, 8, 3], "2.2.4", "tensorflow")
    assert {number: [array.shape for array in arrays] for number, arrays in file.arrays.items()} == {
        0: [(3, 3, 3, 2), (2,)],
        3: [(2, 3), (3,)],
    }
    json.dumps([layer.settings for layer in file.graph.layers])


def test_lists_of_names_that_were_too_long_for_hdf5_are_read(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "m.h5", small())
    with h5py.File(path, "a") as file:
        group = file["model_weights"]
        names = list(group.attrs["layer_names"])
        del group.attrs["layer_names"]
        group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:1], names[1:]
    assert sorted(read_keras_file(path).arrays) == [0, 2]


def test_weights_go_by_order_where_names_differ_as_in_keras(tmp_path: Path) -> None:
    other = {"conv2d_7": SMALL_WEIGHTS["conv2d"], "dense_3": SMALL_WEIGHTS["dense"]}
    file, same = (
        read_keras_file(write_h5(tmp_path / "a.h5", small(), other)),
        read_keras_file(write_h5(tmp_path / "b.h5", small())),
    )
    assert np.array_equal(file.arrays[0][0], same.arrays[0][0])
    swapped = dict(reversed(SMALL_WEIGHTS.items()))
    by_name = read_keras_file(write_h5(tmp_path / "c.h5", small(), swapped))
    assert [array.shape for array in by_name.arrays[2]] == [(2, 3), (3,)]


def test_layers_may_be_called_as_keras_calls_its_own_groups(tmp_path: Path) -> None:
    names = ("optimizer_weights", "model_weights")
    ending = layer("Dense", names[1], units=3, activation="softmax")
    model = sequential(conv(name=names[0]), layer("GlobalAveragePooling2D"), ending)
    architecture = tmp_path / "m.json"
    architecture.write_text(json.dumps({**model, "keras_version": "2.2.4"}))
    weights = dict(zip(names, SMALL_WEIGHTS.values(), strict=True))
    assert sorted(read_keras_file(write_h5(tmp_path / "w.h5", None, weights), architecture).arrays) == [0, 2]
    assert sorted(read_keras_file(write_h5(tmp_path / "m.h5", model, weights)).arrays) == [0, 2]


@pytest.mark.parametrize(("version", "is_by_layer"), [("3.15.1", True), ("2.15.0", False)])
def test_arrays_of_a_frozen_model_are_in_its_librarys_order(tmp_path: Path, version: str, is_by_layer: bool) -> None:
    """Only the model is frozen, not its layers: Keras 2 stores their trained arrays first, Keras 3 does not."""
    second = layer("Conv2D", "second", filters=2, kernel_size=1)
    base = sequential(conv(), layer("BatchNormalization", "normal"), second)
    base["config"].update(name="base", trainable=False)
    model = sequential(base, layer("GlobalAveragePooling2D"), layer("Dense", units=3, activation="softmax"))
    first, last = SMALL_WEIGHTS["conv2d"], {"second/kernel:0": (1, 1, 2, 2), "second/bias:0": (2,)}
    names = [f"normal/{name}:0" for name in ("gamma", "beta", "moving_mean", "moving_variance")]
    trained, others = dict.fromkeys(names[:2], (2,)), dict.fromkeys(names[2:], (2,))
    ordered = {**first, **trained, **others, **last} if is_by_layer else {**first, **trained, **last, **others}
    weights = {"base": ordered, "dense": SMALL_WEIGHTS["dense"]}
    path = write_h5(tmp_path / "m.h5", model, weights, keras_version=version)
    arrays = read_keras_file(path).arrays
    with h5py.File(path) as file:
        stored = [np.array(file[f"model_weights/base/base/{name}"]) for name in names]
    assert np.array_equal(arrays[1], stored)
    assert [array.shape for array in arrays[2]] == [(1, 1, 2, 2), (2,)]


def test_weights_need_their_architecture(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "w.h5", None)
    with pytest.raises(UsageError, match=r"w.h5: the file holds weights without their architecture: .*--architecture"):
        read_keras_file(path)
    architecture = tmp_path / "m.json"
    architecture.write_text(json.dumps({**small(), "keras_version": "2.2.4"}))
    assert sorted(read_keras_file(path, architecture).arrays) == [0, 2]
    with pytest.raises(UsageError, match="the file is an architecture without weights"):
        read_keras_file(architecture)
    architecture.write_text("no JSON")
    with pytest.raises(UsageError, match=r"m.json is not JSON"):
        read_keras_file(path, architecture)
    architecture.write_text(json.dumps(sequential(conv(), layer("Dense", units=3), layer("Dense", "other", units=3))))
    with pytest.raises(UsageError, match="the file has weights of 2 layers, the model has 3 with weights"):
        read_keras_file(path, architecture)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (
            layer("LSTM", "memory", units=3),
            r"the layer 'memory' \(LSTM\) is not a supported layer: remove or replace it",
        ),
        (layer("Conv2d", "c"), r"the layer 'c' \(Conv2d\) is not a supported layer; Conv2D is: remove"),
        (layer("Lambda", "x2", function=["4wEAAA==", None]), r"the layer 'x2' \(Lambda\) runs Python code"),
        (layer("TFOpLambda", "half", function="math.multiply"), r"'half' \(TFOpLambda\) runs Python code"),
        (layer("BatchNormalization", "bn", renorm=True), r"'bn' .*the setting renorm = True is not supported"),
        (layer("BatchNormalization", "bn", axis=[1, 2]), r"'bn' .*axis should be a whole number, got \[1, 2\]"),
        (layer("Dense", "d", units=3, lora_rank=4), r"'d' .*the setting lora_rank = 4 is not supported"),
        (layer("Dense", "d", units=0), r"'d' \(Dense\): units should be greater than or equal to 1, got 0"),
        (layer("Dense", "d"), r"'d' \(Dense\): the key 'units' is missing"),
        (layer("Dense", "d", units=True), r"units should be a whole number, got True"),
        (layer("Dense", "d", units=3, activation="reluu"), r"activation must be one of linear, relu, .*got 'reluu'"),
        (layer("Dense", "d", units=3, dtype={"class_name": "QuantizedDTypePolicy"}), r"'d' .*is quantized"),
        (layer("Dense", "d", units=3, activation={"class_name": "Mine"}), r"activation must be one of"),
        (
            layer("Dense", "d", units=3, activation={"class_name": "ReLU", "module": None}),
            r"the activation of the layer 'd' \(Dense\) is a class of your own",
        ),
        (
            layer("Activation", "a", activation={"class_name": "function", "config": "relu", "module": "mine"}),
            r"the activation of the layer 'a' \(Activation\) is a class of your own",
        ),
        (
            layer("Activation", "a", activation={"class_name": "__lambda__", "config": {"value": "4wEAAA=="}}),
            r"activation must be one of linear, relu, .*got '__lambda__'",
        ),
        (layer("MaxPooling2D", "p", padding="full"), r"padding should be 'valid' or 'same', got 'full'"),
        (layer("MaxPooling2D", "p", pool_size=[2, 2, 2]), r"pool_size .* at most 2 items .*got \[2, 2, 2\]"),
        (layer("MaxPooling2D", "p", data_format="th"), r"data_format should be 'channels_last' or .*got 'th'"),
        (layer("UpSampling2D", "u", interpolation="bicubic"), r"should be 'nearest' or 'bilinear', got 'bicubic'"),
        (layer("Permute", "p", dims=[0, 1, 2]), r"dims.0 should be greater than or equal to 1, got 0"),
        (layer("Reshape", "r", target_shape=10**400), r"target_shape should be a list, got 1000.*…"),
        (layer("Dropout", "d", rate=1.5), r"rate should be less than 1, got 1.5"),
        (layer("Dropout", "d", rate=float("nan")), r"rate should be a finite number, got nan"),
        (
            layer("ZeroPadding2D", "z", padding=[[1, -1], [0, 0]]),
            r"padding.0.1 should be greater than or equal to 0, got -1",
        ),
        ({"class_name": "Dense", "config": None}, r"the layer 'dense' \(Dense\) has no settings"),
        ({"class_name": 5}, r"a layer in the file has no class name"),
        ({**layer("Dense", "mine", units=3), "module": "my_layers"}, r"'mine' \(Dense\) is a class of your own"),
        (  # as Keras 3 writes a class that was not registered
            {**layer("Dense", "mine", units=3), "module": None, "registered_name": "Dense"},
            r"'mine' \(Dense\) is a class of your own",
        ),
        ({**layer("Dense", "m", units=3), "registered_name": "own>Dense"}, r"'m' \(Dense\) is a class of your own"),
        ({**layer("Relu", "r"), "module": "keras.src.ops.nn"}, r"'r' \(Relu\) is an operation outside any layer"),
        (sequential(), r"the layer 'model' \(Sequential\) has no layers"),
    ],
)
def test_what_cannot_be_read_is_named(wrong: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text) as raised:
        architecture.read_model(json.loads(json.dumps(small(wrong)), object_hook=unwrap), KERAS_2)
    assert "\n" not in str(raised.value)


def test_errors_in_a_file_name_the_file(tmp_path: Path) -> None:
    wrong = layer("Lambda", "x\n2", function=["4wEAAA==", None])
    with pytest.raises(UsageError, match=r"the layer 'x 2' \(Lambda\) runs Python code") as raised:
        read_keras_file(write_h5(tmp_path / "m.h5", small(wrong)))
    assert str(raised.value).startswith(f"{tmp_path / 'm.h5'}: ") and "\n" not in str(raised.value)


def functional(*entries: tuple[dict[str, Any], list[Any]], **ends: Any) -> dict[str, Any]:
    """Return a functional model, from layers and their inputs, as Keras 2 writes it."""
    written = [{**entry, "name": entry["config"]["name"], "inbound_nodes": calls} for entry, calls in entries]
    config = {"name": "graph", "layers": written, "input_layers": [["in", 0, 0]], "output_layers": [["out", 0, 0]]}
    return {"class_name": "Model", "config": {**config, **ends}}


INPUT: tuple[dict[str, Any], list[Any]] = (layer("InputLayer", "in", batch_input_shape=[None, 8, 8, 3]), [])


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (functional(INPUT, input_layers=[["in", 0, 0], ["b", 0, 0]]), "must have exactly one input"),
        (functional(INPUT, output_layers=[]), "must have exactly one output"),
        (functional(INPUT, (layer("Flatten", "out"), [[["lost", 0, 0, {}]]])), "no path leads from its input to 'out'"),
        (functional(INPUT, (layer("Flatten", "out"), [[["out", 0, 0, {}]]])), "no path leads from its input to 'out'"),
        (functional(INPUT, (layer("Flatten", "f"), [[["in", 0, 0, {}]]])), "no path leads to its output 'out'"),
        (
            functional(INPUT, (layer("Flatten", "out"), [[["in", 0, 1, {}]]])),
            "takes an input that is not the result of a layer",
        ),
        (functional(INPUT, (layer("Flatten", "out"), [[]])), "takes no input"),
        (
            functional(INPUT, (layer("Flatten", "out"), [[["in", 0, 0, {"scale": 2}]]])),
            "called with a number or a word",
        ),
        (
            functional(INPUT, (layer("Dropout", "out", rate=0.5), [[["in", 0, 0, {"training": True}]]])),
            "called with training=True",
        ),
        (functional(INPUT, INPUT), "two of its layers have the same name"),
        ({"class_name": "Dense", "config": {"name": "d", "units": 3}}, "the file holds a single layer"),
        ({"class_name": "Model", "config": {"name": "mine"}}, r"'mine' \(Model\) has no layers"),
        ({"class_name": "MyModel", "config": {}}, r"'mymodel' \(MyModel\) is not a supported layer"),
    ],
)
def test_graphs_that_cannot_be_followed_are_refused(model: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        architecture.read_model(model, KERAS_2)


def test_models_in_models_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = small()
    for _ in range(12):
        deep = sequential(deep)
    with pytest.raises(UsageError, match="models are nested more than 10 deep"):
        architecture.read_model(deep, KERAS_2)
    monkeypatch.setattr(architecture, "MAX_LAYERS", 1_000)
    wide = sequential(*[layer("Flatten")] * 1_001)
    with pytest.raises(UsageError, match="more than 1,000 layers"):
        architecture.read_model(wide, KERAS_2)
    calls: Any = [[["in", 0, 0, {}]]]
    nothing = functional(INPUT, output_layers=[["in", 0, 0]])
    for depth in range(9):  # each calls the one in it ten times, and none does anything
        nothing["config"]["name"] = f"m{depth}"
        nothing = functional(INPUT, (nothing, calls * 10), output_layers=[[f"m{depth}", 1, 0]])
    monkeypatch.setattr(architecture, "MAX_VISITS", 1_000)
    with pytest.raises(UsageError, match="call each other too often"):
        architecture.read_model(nothing, KERAS_2)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the file is neither HDF5 nor a Keras archive"),
        (b"no format", "the file is neither HDF5 nor a Keras archive"),
        (b"\x80\x04\x95pickle", "the file is a Python pickle. It is not opened"),
        (b'"{\\"class_name\\"', "the file is an architecture without weights"),
        (b"\x89HDF\r\n\x1a\n", "the file is damaged or not what Keras writes"),
        (b"PK\x03\x04" + b"\0" * 99, "the file is a damaged zip archive"),
        (b'{"class_name": "Sequential"}', "the file is an architecture without weights"),
    ],
)
def test_what_is_no_keras_file_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "m.h5").write_bytes(content)
    with pytest.raises(UsageError, match=text):
        read_keras_file(tmp_path / "m.h5")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("[" * 100_000, "its model_config is not JSON"),
        ("{}", "a layer in the file has no class name"),
        ("[1]", "its model_config does not hold a model"),
        ('"' + "x" * 9_000_000, "(is far larger than|must have at most 8 MB)"),
        ('{"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": 1}]}}', "has no"),
    ],
)
def test_configurations_that_are_none_are_refused(tmp_path: Path, config: str, text: str) -> None:
    path = write_keras(
        tmp_path / "m.keras", config, **{"model.weights.h5": write_h5(tmp_path / "w", None).read_bytes()}
    )
    with pytest.raises(UsageError, match=text.replace("its model_config", "config.json")):
        read_keras_file(path)
    if len(config) < 2**16:  # what an attribute holds
        with pytest.raises(UsageError, match=text):
            read_keras_file(write_h5(tmp_path / "m.h5", config))


def test_versions_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    for version in ("4.0.0", "0.3.1", "new"):
        with pytest.raises(UsageError, match=f"the version of Keras must be from 1.2 to 3, got '{version}'"):
            read_keras_file(write_h5(tmp_path / "m.h5", small(), keras_version=version))


def test_zip_bombs_and_strange_archives_are_refused(tmp_path: Path) -> None:
    weights = write_h5(tmp_path / "w.h5", None).read_bytes()
    path = tmp_path / "m.keras"
    with pytest.raises(UsageError, match=r"its config.json is far larger than the archive"):
        read_keras_file(write_keras(path, b" " * 40_000_000, **{"model.weights.h5": weights}))
    assert path.stat().st_size < 100_000
    with pytest.raises(UsageError, match=r"its model.weights.h5 is far larger than the archive"):
        read_keras_file(write_keras(path, small(), **{"model.weights.h5": bytes(40_000_000)}))
    with pytest.raises(UsageError, match=r"the file is a zip archive without model.weights.h5"):
        read_keras_file(write_keras(path, small()))
    write_keras(path, small(), **{"model.weights.h5": weights})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match="the file is a damaged zip archive"):
        read_keras_file(path)


def mischief(kind: str) -> bytes:
    """Return an HDF5 file with something that no file of weights holds."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        group = file.create_group("dense")
        group.attrs["weight_names"] = [b"kernel"]
        if kind == "link":
            group["kernel"] = h5py.ExternalLink("/etc/hostname", "/x")
        elif kind == "strange link":
            group["\x1b[31m"] = h5py.SoftLink("/dense")
        elif kind == "soft link":
            group["kernel"] = h5py.SoftLink("/dense")
        elif kind == "external":
            group.create_dataset("kernel", (4,), "u1", external=[("/etc/hostname", 0, 4)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource("/etc/hostname", "x", (4,))
            group.create_virtual_dataset("kernel", layout)
        elif kind == "loop":
            group["kernel"] = file["/"]
        elif kind == "huge":
            group.create_dataset("kernel", (10**9, 10**9), "f4", chunks=(1000, 1000))
        elif kind == "packed":
            group.create_dataset("kernel", data=np.zeros((3000, 3000), np.float32), compression="gzip")
    return content.getvalue()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("link", "kernel is a link"),
        ("soft link", "kernel is a link"),
        ("strange link", r"ValueError: \[31m is a link"),
        ("external", "kernel is stored in another file"),
        ("virtual", "kernel is stored in another file"),
        ("loop", "more groups than any model"),
        ("huge", "far larger than the file"),
        ("packed", "far larger than the file"),
    ],
)
def test_hdf5_that_reaches_beyond_itself_is_refused(kind: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        hdf5.read_hdf5(mischief(kind))


def damaged(content: bytes, seed: int) -> bytes:
    """Return a file with some of its non-zero bytes changed."""
    draw, changed = random.Random(seed), bytearray(content)
    for place in draw.sample([place for place, byte in enumerate(content) if byte], draw.choice((1, 2, 5, 20))):
        changed[place] = draw.choice((0, 255, draw.randrange(256)))
    return bytes(changed)


@pytest.mark.parametrize("seed", [HANGS, CRASHES, *range(10)])
def test_damaged_hdf5_never_hangs_and_never_crashes_this_process(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MIN_SECONDS", 2)
    with zipfile.ZipFile(FILES / "keras-2.2.5-tensorflow.zip") as archive:
        content = archive.read("flat.h5")
    try:
        hdf5.read_hdf5(damaged(content, seed))
    except UsageError as error:
        assert "the file is damaged" in str(error) and "\n" not in str(error)


def test_bfloat16_and_other_byte_orders_are_numbers(tmp_path: Path) -> None:
    content = io.BytesIO()
    values = np.array([[1.5, -2.0], [0.25, 3e8]], np.float32)
    with h5py.File(content, "w") as file:
        file["big"] = values.astype(">f8")
        file["scalar"] = np.int64(7)
        file.create_dataset("short", data=(values.view(np.uint32) >> 16).astype(np.uint16).view("V2"))
        file["short"].attrs["dtype"] = "bfloat16"
        file["text"] = "not a number"
    arrays = hdf5.read_hdf5(content.getvalue()).arrays
    assert arrays.keys() == {"big", "scalar", "short"} and arrays["scalar"].shape == ()
    assert np.array_equal(arrays["big"], values) and arrays["big"].dtype.isnative
    np.testing.assert_allclose(arrays["short"], values, rtol=2**-8)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "m.h5", small())
    with h5py.File(path, "a") as file:
        file["model_weights/dense/dense/bias:0"][1] = np.nan
    with pytest.raises(
        UsageError, match=r"'dense' \(Dense\): its bias holds NaN or infinity, because its training has diverged"
    ):
        read_keras_file(path)


REQUIRED: dict[str, dict[str, Any]] = {  # settings without which a layer is not read
    "Conv2D": {"filters": 2, "kernel_size": 3},
    "DepthwiseConv2D": {"kernel_size": 3},
    "SeparableConv2D": {"filters": 2, "kernel_size": 3},
    "Dense": {"units": 2},
    "Reshape": {"target_shape": [-1]},
    "Permute": {"dims": [2, 1, 3]},
    "Activation": {"activation": "relu"},
}


def test_every_layer_that_is_read_can_be_built_and_the_reverse() -> None:
    assert len(SETTINGS) > 35 and len(AUGMENTATIONS) > 20
    kinds = set()
    for class_name in (*SETTINGS, *AUGMENTATIONS):
        read = Layer(class_name, class_name)
        read_layer(read, REQUIRED.get(class_name, {}), Origin((3, 15, 1), "tensorflow"))
        settings = {name: value for name, value in read.settings.items() if name != "data_format"}
        images = [torch.zeros(1, 3, 8, 8)] * (2 if read.kind in MERGES else 1)
        assert torch.is_tensor(LAYERS[read.kind](Inputs((8, 8, 3), True), **settings)(*images))
        kinds.add(read.kind)
    assert kinds | {"TwoClasses"} == LAYERS.keys(), "a layer of keras_graph has no settings in layer_settings"


def test_every_activation_that_is_read_has_a_function_and_the_reverse() -> None:
    assert len(ACTIVATIONS) > 20
    assert {*ACTIVATIONS, "hard_sigmoid_3", "log"} == ELEMENTWISE_ACTIVATIONS.keys() | AXIS_ACTIVATIONS.keys()
