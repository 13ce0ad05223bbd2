"""Write classifiers as ONNX files that any runtime reads, and read such files as classifiers. Needs the extra `onnx`.

An ONNX file takes images as uint8 [batch, height, width, 3], or [batch, height, width, 1] if its network takes gray
images of one channel (`channels = "mono"`), and returns probabilities [batch, classes]: it contains the preprocessing,
the temperature and the softmax. Class names and origin are in its metadata.
"""

import hashlib
import importlib
import itertools
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cifarlab import files
from cifarlab.data.dataset import in_colour
from cifarlab.errors import CifarlabError, UsageError, one_line, validated
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.preprocessing import Preprocess
from cifarlab.inference.weights_file import read_metadata
from cifarlab.limited.reading import read_limited
from cifarlab.recipes import Preprocessing

FORMAT = "cifarlab-onnx-1"
MODEL = "onnx"  # `Classifier.model` of a classifier that was read from an ONNX file
CHILD = Path(__file__).with_name("onnx_child.py")
TRIAL_MEMORY = 2**30  # bytes that a file may take to classify two images
MOST_MEMORY = 4 * 2**30  # bytes that all ONNX files of a process may take beside their weights
IMAGES, PROBABILITIES = "images", "probabilities"  # names of the file's input and output
CHECKED = 64  # random images that compare a new file with the network
MOST_DIFFERENCE = 1e-4  # allowed difference of a probability, in fp32
CALIBRATED = 1_000  # training images whose activations set the ranges of int8
_BATCH = 250
_IN_INT8 = ["Conv", "Gemm", "MatMul"]  # operations that compute in int8


def to_onnx(classifier: Classifier, path: Path) -> float:
    """Write a classifier, which is on the CPU, as an fp32 ONNX file.

    Return the largest difference between a probability of the file and of the network, on random images.
    """
    content = _to_bytes(classifier)
    shape = (CHECKED, classifier.size, classifier.size, classifier.in_channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with torch.inference_mode():
        expected = _ExportedNetwork(classifier).eval()(torch.from_numpy(images)).numpy()
    difference = float(np.abs(_run(_session(content, path), images) - expected).max())
    if not difference <= MOST_DIFFERENCE:  # not "greater", because it may be NaN
        raise CifarlabError(f"{path} was not written: a probability differs by {difference:.2g} from the network")
    files.write_bytes(path, content)
    return difference


def to_int8(classifier: Classifier, path: Path, images: UInt8[np.ndarray, "n c h w"]) -> None:
    """Write a classifier on the CPU as an ONNX file whose convolutions and matrix products compute in int8.

    Weights are scaled per output channel, activations by their range on `images`, about `CALIBRATED` training images
    (static quantisation, Jacob et al. 2018, arXiv 1712.05877).
    """
    _check_packages()
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    is_mono = classifier.in_channels == 1
    inputs = classifier.preprocess.ordered(torch.from_numpy(np.array(images))).numpy() if is_mono else in_colour(images)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            rows = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
            self.batches = ({IMAGES: batch} for batch in np.array_split(rows, -(-len(rows) // _BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        fp32, prepared, int8 = (Path(folder) / name for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        fp32.write_bytes(_to_bytes(classifier))
        quant_pre_process(fp32, prepared, skip_symbolic_shape=True)  # shape inference fails on whitening
        quantize_static(
            prepared, int8, Reader(), per_channel=True, op_types_to_quantize=_IN_INT8, activation_type=QuantType.QUInt8
        )
        files.write_bytes(path, int8.read_bytes())


def from_onnx(path: Path) -> Classifier:
    """Return the classifier in an ONNX file that cifarlab wrote. It can predict, but not be trained."""
    _check_packages()
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}")
    content = path.read_bytes()
    if not content:
        raise UsageError(f"{path} is empty")
    import onnx

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's exception has no public name
        reason = files.other_format(path, "ONNX") or f"it is damaged or incomplete ({one_line(error)[:200]})"
        raise UsageError(f"{path} is not an ONNX file: {reason}") from error
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
        raise UsageError(f"{path} keeps weights in other files, which is not supported")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if metadata.get("format") != FORMAT:
        raise UsageError(f"{path} has no class names and no image size: cifarlab export did not write it")
    try:
        classes, size, about = read_metadata(metadata, f"{path} has damaged metadata")
        temperature = float(about.get("temperature", 1.0))
        # Version 0.2 wrote neither of them. The file contains the rest of the preprocessing.
        kept = {"resize": metadata.get("resize", "crop"), "channels": metadata.get("channels", "rgb")}
    except (KeyError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} has damaged metadata: {one_line(error)}") from error
    nodes = itertools.chain(model.graph.node, *(function.node for function in model.functions))
    if any(attribute.HasField("g") or attribute.graphs for node in nodes for attribute in node.attribute):
        raise UsageError(f"{path} has loops or branches, which no file of cifarlab export has")
    settings = validated(Preprocessing, {"normalize": "raw", **kept}, f"{path} has damaged metadata")
    preprocess = Preprocess(settings, size)
    try:
        shapes, _ = read_limited(CHILD, content, size, settings.in_channels, most_bytes=TRIAL_MEMORY + 4 * len(content))
        if shapes != [[2, len(classes)]]:
            raise UsageError(f"its probabilities for two images must be [2, {len(classes)}], got {shapes}")
    except UsageError as error:
        raise UsageError(f"{path} is not an ONNX file that cifarlab can use: {error}") from error
    preprocess.fit(np.zeros((0, settings.in_channels, size, size), np.uint8))
    network = _OnnxNetwork(_session(content, path), temperature, content)
    return Classifier(network, preprocess, classes, size, MODEL, {}, about)


class _ExportedNetwork(nn.Module):
    """The computation of an ONNX file: preprocessing, network, temperature and softmax."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.preprocess, self.network = classifier.preprocess, classifier.network
        self.temperature = classifier.temperature

    def forward(self, images: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b classes"]:
        logits = self.network(self.preprocess(images.permute(0, 3, 1, 2)))
        return torch.softmax(logits / self.temperature, dim=1)


class _OnnxNetwork(nn.Module):
    """An ONNX file as a network from pixels of 0 to 255 to logits before their division by the temperature."""

    def __init__(self, session: Any, temperature: float, content: bytes) -> None:
        super().__init__()
        self.session, self.temperature = session, temperature
        digest = bytearray(hashlib.sha256(content).digest())  # stands for the weights, which are in the session
        self.register_buffer("digest", torch.frombuffer(digest, dtype=torch.uint8))

    def forward(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        images = pixels.detach().round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous()
        probabilities = torch.from_numpy(_run(self.session, images.numpy())).to(pixels.device)
        return self.temperature * probabilities.clamp(min=1e-30).log()


def _to_bytes(classifier: Classifier) -> bytes:
    _check_packages()
    import onnx

    example = torch.zeros(2, classifier.size, classifier.size, classifier.in_channels, dtype=torch.uint8)
    names: dict[str, Any] = {"input_names": [IMAGES], "output_names": [PROBABILITIES]}
    shapes = ({0: torch.export.Dim("batch")},)
    network = _ExportedNetwork(classifier).eval()
    try:
        with _quiet():
            program = torch.onnx.export(network, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
    except Exception as error:  # a user's own network can raise anything
        raise UsageError(f"{classifier.model} cannot be exported to ONNX: {one_line(error)[:300]}") from error
    assert program is not None
    model = program.model_proto
    metadata = {"format": FORMAT, "model": classifier.model, "size": str(classifier.size)}
    about = json.dumps(dict(classifier.about))
    metadata |= {"classes": json.dumps(classifier.classes), "about": about, "resize": classifier.resize}
    metadata |= {"channels": "mono"} if classifier.in_channels == 1 else {}
    onnx.helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


def _session(content: bytes, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as exceptions too
    options.intra_op_num_threads = torch.get_num_threads()
    _limit_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")  # beside the limit
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise UsageError(f"{path} is not an ONNX file that onnxruntime can read ({one_line(error)[:200]})") from error


def _run(session: Any, images: UInt8[np.ndarray, "b h w c"]) -> np.ndarray:
    try:
        probabilities: np.ndarray = session.run([PROBABILITIES], {IMAGES: images})[0]
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise UsageError(f"the ONNX file fails on these images ({one_line(error)[-200:]})") from error
    return probabilities


@cache
def _limit_memory() -> None:
    """Limit the memory of this process's sessions: that of a forged file can depend on the pixels."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({"max_mem": MOST_MEMORY}))


def _check_packages() -> None:
    try:
        for name in ("onnx", "onnxruntime", "onnxscript"):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"ONNX files need the package {error.name}: pip install 'cifarlab[onnx]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings of the exporter and the quantiser about optional packages."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(level)
