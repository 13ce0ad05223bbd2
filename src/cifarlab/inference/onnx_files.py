"""Classifiers to ONNX files that any runtime reads, and such files back to classifiers.

A file takes pictures as they come, bytes of [batch, height, width, 3], and gives probabilities: preprocessing,
temperature and softmax are inside, class names and origin in its metadata. Needs the extra `onnx`.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cifarlab import files
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.preprocessing import Preprocess

FORMAT = "cifarlab-onnx-1"
MODEL = "onnx"  # what a classifier's network is called that came from such a file
IMAGES, PROBABILITIES = "images", "probabilities"  # the file's input and output
CHECKED = 64  # random images on which a new file is compared with the network
MOST_DIFFERENCE = 1e-4  # of a probability, in fp32
CALIBRATED = 1_000  # training images whose activations set the ranges of int8
_BATCH = 250
_MULTIPLIED = ["Conv", "Gemm", "MatMul"]  # operations in int8


def to_onnx(classifier: Classifier, path: Path) -> float:
    """Writes a classifier as an ONNX file in fp32, with its weights inside, and compares both.

    Args:
        classifier: on the CPU.
        path: of the file, replaced if it is there.

    Returns:
        The largest difference of a probability on random images.

    Raises:
        UsageError: a package is missing, or the network has operations that ONNX has not.
        CifarlabError: the file gives other probabilities than the network.
    """
    content = _exported(classifier)
    images = np.random.default_rng(0).integers(0, 256, (CHECKED, classifier.size, classifier.size, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = _Served(classifier).eval()(torch.from_numpy(images)).numpy()
    difference = float(np.abs(_run(_session(content), images) - expected).max())
    if not difference <= MOST_DIFFERENCE:
        raise CifarlabError(f"the ONNX file differs from the network by {difference:.2g} in a probability: not written")
    files.write_bytes(path, content)
    return difference


def to_int8(classifier: Classifier, path: Path, images: UInt8[np.ndarray, "n 3 h w"]) -> None:
    """Writes a classifier as an ONNX file whose convolutions and matrix products compute in int8.

    Weights are scaled by output channel, activations by the range that they have on these images (static quantisation
    as in Jacob et al. 2018, arXiv 1712.05877).

    Args:
        classifier: on the CPU.
        path: of the file, replaced if it is there.
        images: some training images of the classifier's size, `CALIBRATED` or so.

    Raises:
        UsageError: as `to_onnx`.
    """
    _needed()
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # which has no types
        def __init__(self) -> None:
            some = images.transpose(0, 2, 3, 1)
            self.batches: Iterator[np.ndarray] = iter(np.array_split(some, -(-len(some) // _BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {IMAGES: np.ascontiguousarray(batch)}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, prepared, small = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "small.onnx"))
        plain.write_bytes(_exported(classifier))
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)  # which fails on whitening
        quantize_static(
            prepared,
            small,
            Reader(),
            per_channel=True,
            op_types_to_quantize=_MULTIPLIED,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        files.write_bytes(path, small.read_bytes())


def from_onnx(path: Path) -> Classifier:
    """The classifier in an ONNX file that this package wrote. It predicts, and cannot be trained.

    Raises:
        UsageError: a package is missing, the file cannot be read, or another program wrote it.
    """
    _needed()
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}")
    content = path.read_bytes()
    if not content:
        raise UsageError(f"{path}: is empty")
    metadata = _metadata(content, str(path))
    if metadata.get("format") != FORMAT:
        raise UsageError(f"{path}: has no class names and no size; ONNX files of other programs are not read")
    try:
        classes, size = tuple(json.loads(metadata["classes"])), int(metadata["size"])
        about = json.loads(metadata["about"])
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: its metadata are damaged: {one_line(error)}") from error
    session = _session(content, str(path))
    preprocess = Preprocess("unit", size)
    preprocess.deviation.fill_(1 / 255)  # the file's own preprocessing wants bytes
    return Classifier(_Session(session), preprocess, classes, size, MODEL, {}, about)


class _Served(nn.Module):
    """What the file computes."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.preprocess, self.network = classifier.preprocess, classifier.network
        self.temperature = classifier.temperature

    def forward(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b classes"]:
        logits = self.network(self.preprocess(images.permute(0, 3, 1, 2)))
        return torch.softmax(logits / self.temperature, dim=1)


class _Session(nn.Module):
    """An ONNX file as a network: pixels of 0 to 255 in, logits out."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        images = pixels.detach().round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous()
        return torch.from_numpy(_run(self.session, images.numpy())).clamp(min=1e-30).log().to(pixels.device)


def _exported(classifier: Classifier) -> bytes:
    _needed()
    import onnx

    example = torch.zeros(2, classifier.size, classifier.size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
            program = torch.onnx.export(
                _Served(classifier).eval(),
                (example,),
                dynamo=True,
                input_names=[IMAGES],
                output_names=[PROBABILITIES],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
    except Exception as error:  # whatever a network of the user's own does
        raise UsageError(f"{classifier.model} cannot be written as ONNX: {one_line(error)[:300]}") from error
    assert program is not None
    model = program.model_proto
    about = {key: value for key, value in classifier.about.items() if key != "temperature"}  # which is inside
    described = {"format": FORMAT, "model": classifier.model, "size": str(classifier.size)}
    described |= {"classes": json.dumps(classifier.classes), "about": json.dumps(about)}
    onnx.helper.set_model_props(model, described)
    content = io.BytesIO()
    onnx.save(model, content)
    return content.getvalue()


def _metadata(content: bytes, name: str) -> dict[str, str]:
    """What a file says of itself, read before anything in it is built."""
    import onnx

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's, which has no public name
        raise UsageError(f"{name}: not an ONNX file ({one_line(error)[:200]})") from error
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
        raise UsageError(f"{name}: keeps weights in other files, which are not read")
    return {entry.key: entry.value for entry in model.metadata_props}


def _session(content: bytes, name: str = "the file") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions too
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise UsageError(f"{name}: not an ONNX file that onnxruntime reads ({one_line(error)[:200]})") from error


def _run(session: Any, images: UInt8[np.ndarray, "b h w 3"]) -> np.ndarray:
    found: np.ndarray = session.run([PROBABILITIES], {IMAGES: images})[0]
    return found


def _needed() -> None:
    try:
        for name in ("onnx", "onnxruntime", "onnxscript"):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"ONNX files need {error.name}: pip install 'cifarlab[onnx]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's and the quantiser's remarks on packages that nobody needs here."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
