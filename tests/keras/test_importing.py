"""Imported networks predict as in Keras: files of real libraries, and what the import assumes."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from keras_files import SMALL_WEIGHTS, Written, conv, images, layer, sequential, small, write_h5, write_keras, written
from PIL import Image

import cifarlab
from cifarlab import Data, UsageError, import_keras
from cifarlab.data.published.data_sets import CIFAR10
from cifarlab.inference.explain import grad_cam
from cifarlab.inference.onnx_files import to_onnx
from cifarlab.inference.prediction import predict
from cifarlab.inference.weights_file import load_weights, save_weights
from cifarlab.models.summary import layer_table
from conftest import Cli, answer

LARGEST = 1e-5  # difference of a probability
REAL = written()


def test_there_are_files_of_many_libraries() -> None:
    libraries = {file.archive.stem for file in REAL}
    assert len(libraries) >= 9 and len(REAL) > 55
    assert any("theano" in name for name in libraries) and any(name.startswith("keras-1") for name in libraries)


QUICK = ("graph", "channels_first", "channels_last")  # of every library; together they have nearly all layers
CASES = [
    pytest.param(file, marks=() if file.file.startswith(QUICK) else pytest.mark.slow, id=str(file)) for file in REAL
]


@pytest.mark.parametrize("real", CASES)
def test_an_imported_network_says_what_keras_said(real: Written, tmp_path: Path) -> None:
    path, architecture = real.unpack(tmp_path)
    classifier = import_keras(path, architecture=architecture, normalize="unit", backend=real.backend)
    imported = predict(classifier, images(real.size)[: len(real.expected)])
    assert np.abs(imported - np.array(real.expected)).max() < LARGEST
    assert imported.std(axis=0).max() > 0.001  # the images are told apart


@pytest.mark.parametrize("file", ["mixed.keras", "graph.weights.h5"])
def test_backslashes_in_the_paths_of_files_from_windows_are_slashes(file: str, tmp_path: Path) -> None:
    real = next(each for each in REAL if each.file == file and each.archive.stem.startswith("keras-3"))
    path, architecture = real.unpack(tmp_path)
    weights = tmp_path / "as-on-windows.h5"
    content = zipfile.ZipFile(path).read("model.weights.h5") if file.endswith(".keras") else path.read_bytes()
    with h5py.File(io.BytesIO(content)) as stored, h5py.File(weights, "w") as written:
        arrays: dict[str, Any] = {}
        stored.visititems(lambda name, item: arrays.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        for name, array in arrays.items():
            folder, kind, number = name.rsplit("/", 2)
            written.create_dataset(f"{folder.replace('/', chr(92))}/{kind}/{number}", data=array[()])
        assert any(name.startswith("layers\\") for name in written)
    if file.endswith(".keras"):
        config = zipfile.ZipFile(path).read("config.json")
        path = write_keras(tmp_path / "w.keras", config, **{"model.weights.h5": weights.read_bytes()})
    else:
        path = weights
    classifier = import_keras(path, architecture=architecture, normalize="unit")
    imported = predict(classifier, images(real.size)[: len(real.expected)])
    assert np.abs(imported - np.array(real.expected)).max() < LARGEST


def test_names_of_layers_may_hold_a_backslash(tmp_path: Path) -> None:
    model = sequential(conv(name="a\\b"), layer("GlobalAveragePooling2D"), layer("Dense", units=3))
    weights = {"a\\b": SMALL_WEIGHTS["conv2d"], "dense": SMALL_WEIGHTS["dense"]}
    assert len(import_keras(write_h5(tmp_path / "m.h5", model, weights)).classes) == 3


def test_an_architecture_that_was_encoded_twice_is_read(tmp_path: Path) -> None:
    twice = json.dumps(json.dumps({**small(), "keras_version": "2.2.4"}))
    expected = import_keras(write_h5(tmp_path / "m.h5", small())).sha256
    (tmp_path / "m.json").write_text(twice)
    weights = write_h5(tmp_path / "w.h5", None)
    assert import_keras(weights, architecture=tmp_path / "m.json").sha256 == expected
    assert import_keras(write_h5(tmp_path / "n.h5", twice)).sha256 == expected
    for text in (json.dumps(twice), '"no JSON"', '"[1]"'):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(UsageError, match=r"m.json (is not JSON|does not hold a model)"):
            import_keras(weights, architecture=tmp_path / "m.json")


def test_a_theano_model_of_keras_1_is_mirrored_where_the_user_says_so(tmp_path: Path) -> None:
    real = next(file for file in REAL if "keras-1.2.2-theano" in file.archive.name)
    path, _ = real.unpack(tmp_path)
    classifier = import_keras(path)
    assert "--backend theano" in classifier.about["assumed"][0]
    imported = predict(classifier, images(real.size)[: len(real.expected)])
    assert np.abs(imported - np.array(real.expected)).max() > 100 * LARGEST
    with pytest.raises(UsageError, match=r"--backend must be one of tensorflow, theano, .*, got 'teano'"):
        import_keras(path, backend="teano")


def test_weights_files_of_imports_are_targets(cli: Cli, tmp_path: Path) -> None:
    write_h5(tmp_path / "m.h5", small())
    Image.fromarray(images(8)[0].transpose(1, 2, 0)).save(tmp_path / "p.png")
    pixels, labels = images(8).transpose(0, 2, 3, 1), np.arange(16) % 3
    names = np.array(["a", "b", "c"])
    np.savez(tmp_path / "d.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels, classes=names)
    imported = answer(cli("import", "m.h5", "--classes", "a,b,c", "--json"))
    keys = {"schema", "path", "layers", "parameters", "classes", "size", "normalize", "keras", "assumed"}
    assert imported.keys() == keys | {"mean", "std", "channels", "resize", "tried", "matched", "checked"}
    assert imported["assumed"] == ["the model was trained on pixels from 0 to 1; choose otherwise with --normalize"]
    assert (imported["path"], imported["parameters"], imported["size"]) == ("m.safetensors", 3 * 9 * 2 + 2 + 9, 8)
    assert (imported["classes"], imported["normalize"], imported["keras"]) == (["a", "b", "c"], "unit", "2.2.4")
    again = cli("import", "m.h5", "--out", "again.safetensors", "--classes", "a,b,c")
    assert again.stdout.splitlines()[-1] == "Use it with: cifarlab predict again.safetensors photo.jpg"
    assert "assumed: the model was trained on pixels from 0 to 1" in again.stderr
    predicted = answer(cli("predict", "m.safetensors", "p.png", "--explain", "why", "--json"))
    assert predicted[0]["label"] in "abc" and (tmp_path / "why" / "p-explained.png").exists()
    rows = answer(cli("summary", "m.safetensors", "--json"))["layers"]
    assert rows[0]["operation"] == "Conv2D 3x3" and rows[-1]["weights"] == 9
    assert answer(cli("evaluate", "m.safetensors", "--data", "npz:d.npz", "--json"))["images"] == 16
    options = ("--data", "digits", "--freeze", "1", "--dry-run", "--json")
    plan = answer(cli("train", "keras4", "--start-from", "m.safetensors", *options))
    assert (len(plan["classes"]), plan["parameters"]) == (10, 3 * 9 * 2 + 2 + 3 * 10)


ERRORS = {
    "import m.h5": "the file exists; replace it with --force",
    "import m.h5 --out n.h5": "should end in .safetensors",
    "import none.h5": "the file 'none.h5' does not exist",
    "import .": "is a folder, but must be a Keras file",
    "import m.h5 --out n.safetensors --size 9": "takes images of 8 pixels a side: leave out --size, got 9",
    "import m.h5 --out n.safetensors --classes a,b": "--classes must be 3 different names, got 'a, b'",
    "import m.h5 --out n.safetensors --normalize uint": "normalize should be 'unit', 'symmetric', ",
    "import m.h5 --out n.safetensors --normalize zca": "needs training images: choose them with --data",
    "import m.h5 --out n.safetensors --architecture none.json": "the file 'none.json' does not exist",
    "import lambda.h5": "the layer 'double' (Lambda) runs Python code",
    "import damaged.h5": "damaged.h5: the file is damaged or not what Keras writes",
    "summary nothing.safetensors": "not a safetensors file",
}


def test_errors_are_one_line_of_help(cli: Cli, tmp_path: Path) -> None:
    write_h5(tmp_path / "m.h5", small())
    write_h5(tmp_path / "lambda.h5", small(layer("Lambda", "double", function=["4wEAAAAAAAAA", None, None])))
    (tmp_path / "damaged.h5").write_bytes((tmp_path / "m.h5").read_bytes()[:3000])
    (tmp_path / "nothing.safetensors").write_bytes(b"nothing")
    (tmp_path / "m.safetensors").touch()
    for command, text in ERRORS.items():
        ended = cli(*command.split(), status=2)
        assert (ended.stdout, ended.stderr.count("\n")) == ("", 1) and text in ended.stderr, ended.stderr
    assert not (tmp_path / "n.safetensors").exists()


def test_a_weights_file_builds_the_network_again_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = next(file for file in REAL if file.file == "mixed.keras")
    path, _ = real.unpack(tmp_path)
    classifier = import_keras(path)
    save_weights(classifier, tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "h5py", None)
    loaded = load_weights(tmp_path / "w.safetensors")
    inputs = torch.from_numpy(images(real.size))
    assert torch.equal(loaded.logits(inputs), classifier.logits(inputs))
    assert loaded.about["imported"] == "mixed.keras" and loaded.model == "keras-graph"
    with pytest.raises(UsageError, match=r"needs h5py: pip install 'cifarlab\[keras\]'"):
        import_keras(path)


def test_only_ten_outputs_for_colour_images_of_32_pixels_are_guessed_to_be_cifar10s_classes(tmp_path: Path) -> None:
    numbered = tuple(f"class{number}" for number in range(10))
    for shape, expected in (([32, 32, 3], CIFAR10.classes), ([28, 28, 1], numbered), ([8, 8, 3], numbered)):
        flatten = layer("Flatten", batch_input_shape=[None, *shape])
        weights = {"dense": {"kernel:0": (int(np.prod(shape)), 10), "bias:0": (10,)}}
        model = sequential(flatten, layer("Dense", units=10, activation="softmax"))
        classifier = import_keras(write_h5(tmp_path / "m.h5", model, weights))
        assert classifier.classes == expected
        assert any("a guess, CIFAR-10's" in line for line in classifier.about["assumed"]) == (
            expected == CIFAR10.classes
        )
    assert import_keras(write_h5(tmp_path / "m.h5", small())).classes == ("class0", "class1", "class2")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog\n\nbird, small\n", "cat|dog|bird, small"),
        ("\ufeff0 cat\r\n1 big dog\r\n2 bird\r\n", "cat|big dog|bird"),
        ("0:cat\n1:dog\n2:bird", "cat|dog|bird"),
        ("0\n1\n2\n", "0|1|2"),
        ("7 segments\n8 segments\n9 segments", "7 segments|8 segments|9 segments"),
    ],
)
def test_classes_may_stand_in_a_text_file(text: str, names: str, cli: Cli, tmp_path: Path) -> None:
    write_h5(tmp_path / "m.h5", small())
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8", newline="")
    imported = answer(cli("import", "m.h5", "--classes", "labels.txt", "--json"))
    assert imported["classes"] == names.split("|")


def test_class_names_that_cannot_be_read_or_do_not_fit_name_the_option(cli: Cli, tmp_path: Path) -> None:
    write_h5(tmp_path / "m.h5", small())
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    assert "--classes: there is no file 'none.txt'" in cli("import", "m.h5", "--classes", "none.txt", status=2).stderr
    assert "--classes must be 3 different names" in cli("import", "m.h5", "--classes", "two.txt", status=2).stderr
    cli("import", "m.h5")
    pixels, labels = images(8).transpose(0, 2, 3, 1), np.arange(16) % 3
    np.savez(tmp_path / "d.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels, classes=list("abc"))
    assert "import --classes" in cli("evaluate", "m.safetensors", "--data", "npz:d.npz", status=2).stderr


def dense(units: int, activation: str, *after: dict[str, Any]) -> dict[str, Any]:
    """Return a model with one dense layer."""
    flatten = layer("Flatten", batch_input_shape=[None, 8, 8, 3])
    return sequential(flatten, layer("Dense", units=units, activation=activation), *after)


def expected_of(path: Path, function: str) -> np.ndarray:
    """Compute with NumPy the outputs of a file's dense layer on pixels from 0 to 1."""
    import h5py

    with h5py.File(path) as file:
        kernel, bias = (np.array(file[f"model_weights/dense/dense/{name}:0"]) for name in ("kernel", "bias"))
    values = images(8).transpose(0, 2, 3, 1).reshape(16, -1) / 255 @ kernel + bias
    shares: np.ndarray = 1 / (1 + np.exp(-values)) if function == "sigmoid" else np.exp(values)
    return shares


@pytest.mark.parametrize(("function", "units"), [("softmax", 3), ("linear", 3), ("sigmoid", 3), ("sigmoid", 1)])
def test_every_ending_becomes_logits(tmp_path: Path, function: str, units: int) -> None:
    model = dense(units, function, layer("Dropout", rate=0.1))
    path = write_h5(tmp_path / "m.h5", model, {"dense": {"kernel:0": (192, units), "bias:0": (units,)}})
    classifier, shares = import_keras(path), expected_of(path, function)
    expected = np.hstack([1 - shares, shares]) if units == 1 else shares / shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predict(classifier, images(8)), expected, atol=LARGEST)
    states_ending = any("ends in" in line or "end in" in line for line in classifier.about["assumed"])
    assert states_ending == ((function, units) in (("linear", 3), ("sigmoid", 3)))


@pytest.mark.parametrize(
    "wrong",
    [
        layer("Permute", "turn", dims=[1, 1, 2]),
        layer("Permute", "turn", dims=[1, 2]),
        layer("Reshape", "turn", target_shape=[-1, -1]),
        layer("Reshape", "turn", target_shape=[7, 5, 3]),
        layer("Reshape", "turn", target_shape=[0, 6, 12]),
    ],
)
def test_a_layer_whose_axes_do_not_fit_is_named(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"m.h5: the layer 'turn' \((Permute|Reshape)\): ") as raised:
        import_keras(write_h5(tmp_path / "m.h5", small(wrong)))
    assert "\n" not in str(raised.value)


def test_a_softmax_over_one_output_is_refused(tmp_path: Path) -> None:
    model = sequential(
        layer("Flatten", batch_input_shape=[None, 8, 8, 3]), layer("Dense", units=1, activation="softmax")
    )
    path = write_h5(tmp_path / "m.h5", model, {"dense": {"kernel:0": (192, 1), "bias:0": (1,)}})
    with pytest.raises(UsageError, match="a softmax over a single output, which is always 1"):
        import_keras(path)
    maps = sequential(conv())
    with pytest.raises(
        UsageError, match=r"must return one value for each class, but returns values of shape \[6, 6, 2\]"
    ):
        import_keras(write_h5(path, maps, {"conv2d": {"kernel:0": (3, 3, 3, 2), "bias:0": (2,)}}))


def test_preprocessing_is_said_in_words(tmp_path: Path, cli: Cli) -> None:
    write_h5(tmp_path / "m.h5", small())
    words = ("--mean", "104,117,124", "--channels", "bgr", "--resize", "stretch")
    found = answer(cli("import", "m.h5", "--json", *words))
    assert (found["mean"], found["std"], found["channels"], found["resize"]) == ([104, 117, 124], [], "bgr", "stretch")
    assert "mean and std are of pixels from 0 to 255; choose the other with --normalize" in found["assumed"]
    settings = cifarlab.load(tmp_path / "m.safetensors").preprocess.settings
    assert (
        settings
        == import_keras(tmp_path / "m.h5", mean=[104, 117, 124], channels="bgr", resize="stretch").preprocess.settings
    )
    assert f"({settings})" in cli("import", "m.h5", "--force", *words).stdout
    gray = import_keras(tmp_path / "m.h5", normalize="unit", std=0.5, channels="gray")
    np.testing.assert_allclose(gray.preprocess(torch.full((1, 3, 8, 8), 51, dtype=torch.uint8)), 0.4)
    assert "should be 'rgb', 'bgr', 'gray' or 'mono'" in refusal(tmp_path / "m.h5", channels="grey")
    assert "do not tell the scale" in refusal(tmp_path / "m.h5", mean=0.5, std=255)


def test_a_gray_model_takes_one_channel(tmp_path: Path) -> None:
    flatten = layer("Flatten", batch_input_shape=[None, 8, 8, 1])
    model = sequential(flatten, layer("Dense", units=3, activation="softmax"))
    path = write_h5(tmp_path / "m.h5", model, {"dense": {"kernel:0": (64, 3), "bias:0": (3,)}})
    mono, gray = (import_keras(path, channels=channels) for channels in ("mono", "gray"))
    assert (mono.in_channels, gray.in_channels) == (1, 3) and "mean of red" not in "".join(mono.about["assumed"])
    pixels = images(8)
    np.testing.assert_allclose(predict(mono, pixels), predict(gray, pixels), atol=1e-6)
    np.testing.assert_allclose(predict(mono, pixels[:, :1]), predict(gray, pixels[:, :1]), atol=1e-6)
    path = write_h5(tmp_path / "colour.h5", small())
    assert 'It takes images of three channels: set channels to "rgb"' in refusal(path, channels="mono")


def refusal(path: Path, **choices: Any) -> str:
    with pytest.raises(UsageError) as raised:
        import_keras(path, **choices)
    return str(raised.value)


def test_a_model_that_scales_pixels_itself_gets_them_raw(tmp_path: Path) -> None:
    inside = sequential(
        layer("Rescaling", scale=1 / 127.5, offset=-1.0, batch_input_shape=[None, 8, 8, 3]),
        *small()["config"]["layers"],
    )
    scaled = import_keras(write_h5(tmp_path / "a.h5", inside))
    chosen = import_keras(write_h5(tmp_path / "b.h5", small()), normalize="symmetric")
    assert (scaled.preprocess.settings.normalize, chosen.preprocess.settings.normalize) == ("raw", "symmetric")
    np.testing.assert_allclose(predict(scaled, images(8)), predict(chosen, images(8)), atol=1e-6)
    raw = scaled.preprocess(torch.from_numpy(images(8)))
    assert torch.equal(raw, torch.from_numpy(images(8)).float())


def test_standard_is_fitted_on_given_images(tmp_path: Path, digits: Data) -> None:
    path = write_h5(tmp_path / "m.h5", small())
    fitted = import_keras(path, normalize="standard", data="digits").preprocess
    assert fitted.mean[0].item() == pytest.approx(cifarlab.load_data("digits", size=8).train.images[:, 0].mean() / 255)
    assert import_keras(path, normalize="standard", data=digits).preprocess.deviation[0] > 0.1


def test_grey_and_flat_and_free_inputs(tmp_path: Path) -> None:
    grey = sequential(layer("Flatten", batch_input_shape=[None, 8, 8]), layer("Dense", units=3, activation="softmax"))
    of_grey = import_keras(write_h5(tmp_path / "g.h5", grey, {"dense": {"kernel:0": (64, 3), "bias:0": (3,)}}))
    equal = np.repeat(images(8)[:, :1], 3, axis=1)
    turned = images(8)[:, [2, 0, 1]]  # the mean of the colours is the same
    assert of_grey.size == 8 and predict(of_grey, equal).std() > 0.01
    np.testing.assert_allclose(predict(of_grey, images(8)), predict(of_grey, turned), atol=1e-6)
    flat = sequential(layer("Dense", units=3, activation="softmax", batch_input_shape=[None, 192]))
    of_flat = import_keras(write_h5(tmp_path / "f.h5", flat, {"dense": {"kernel:0": (192, 3), "bias:0": (3,)}}))
    assert of_flat.size == 8 and "row by row" in of_flat.about["assumed"][0]
    shares = expected_of(tmp_path / "f.h5", "softmax")
    np.testing.assert_allclose(predict(of_flat, images(8)), shares / shares.sum(axis=1, keepdims=True), atol=LARGEST)
    free = small()
    free["config"]["layers"][0]["config"]["batch_input_shape"] = [None, None, None, 3]
    path = write_h5(tmp_path / "m.h5", free)
    with pytest.raises(UsageError, match="takes images of any size: choose the side in pixels with --size"):
        import_keras(path)
    assert import_keras(path, size=20).size == 20


def test_heat_maps_are_of_the_last_maps_in_both_layouts(tmp_path: Path) -> None:
    inputs, targets = images(8), np.zeros(16, dtype=np.int64)
    heats = []
    for form, shape in (("channels_last", [None, 8, 8, 3]), ("channels_first", [None, 3, 8, 8])):
        model = small(layer("Activation", activation="relu"))
        for number in (0, 2):
            model["config"]["layers"][number]["config"]["data_format"] = form
        model["config"]["layers"][0]["config"]["batch_input_shape"] = shape
        heats.append(grad_cam(import_keras(write_h5(tmp_path / "m.h5", model)), inputs, targets))
    np.testing.assert_allclose(heats[0], heats[1], atol=1e-5)
    assert heats[0].shape == (16, 8, 8) and heats[0].max() == 1


@pytest.mark.slow
def test_imports_with_ceilings_and_uneven_padding_become_onnx(tmp_path: Path) -> None:
    shapes: dict[str, Any] = {**SMALL_WEIGHTS, "second": {"kernel:0": (2, 2, 2, 2)}}
    uneven = {"kernel_size": 2, "strides": 2, "padding": "same", "use_bias": False}
    between = (
        layer("ReLU", "six", max_value=6.0),
        layer("Conv2D", "second", filters=2, **uneven),
        layer("ReLU", "bent", max_value=2, negative_slope=0.1, threshold=0.2),
        layer("AveragePooling2D", pool_size=2, strides=1, padding="same"),
    )
    classifier = import_keras(write_h5(tmp_path / "m.h5", small(*between), shapes))
    assert to_onnx(classifier, tmp_path / "m.onnx") < LARGEST


def test_the_summary_counts_what_keras_counts(tmp_path: Path) -> None:
    real = next(file for file in REAL if file.file == "graph.h5" and "keras-3" in file.archive.name)
    rows = layer_table(import_keras(real.unpack(tmp_path)[0]).network, 8)
    convolutions = [row for row in rows if row.operation.startswith("Conv2D")]
    assert [row.output_shape for row in convolutions] == [(4, 4, 4)] * 3 + [(3, 4, 4), (4, 3, 3)]
    assert [row.weights for row in convolutions] == [52, 148, 0, 27, 52]  # one is used twice
