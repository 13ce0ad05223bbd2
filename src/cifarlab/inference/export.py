"""Export a trained network to a file for other programs, and check that file."""

from dataclasses import dataclass
from pathlib import Path

from cifarlab import files
from cifarlab.data.dataset import Data, sample
from cifarlab.errors import UsageError, unknown
from cifarlab.inference import onnx_files
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.loading import Target, load
from cifarlab.inference.targets import evaluate, evaluation_data
from cifarlab.inference.weights_file import save_weights
from cifarlab.runs.folder import check_new
from cifarlab.runs.listing import PRETRAINED

FORMATS = ("onnx", "safetensors")


@dataclass(frozen=True)
class Exported:
    """An exported file, and how closely it agrees with the network."""

    path: Path
    bytes: int  # size of the file
    difference: float | None = None  # largest difference of a probability on random images, for fp32 ONNX files
    accuracy: float | None = None  # of the file on the test images, for int8 ONNX files
    own_accuracy: float | None = None  # of the target on the same images


def export(
    target: Target,
    out: Path | str | None = None,
    *,
    format: str = "onnx",
    int8: bool = False,
    data: Data | str | None = None,
    force: bool = False,
    runs: Path | str | None = None,
    quiet: bool = True,
) -> Exported:
    """Write a trained network to a file for other programs, and check the file.

    Args:
        target: a run, its name or path, a weights file, `pretrained:NAME`, or a loaded classifier.
        out: path of the file; by default named after the target, in the current folder.
        format: a format from `FORMATS`. An ONNX file takes uint8 [batch, height, width, 3], or 1 channel with
            `channels = "mono"`, and returns probabilities.
        int8: make the ONNX file compute in int8. This needs training images, and measures both on the test images.
        data: data set for `int8`, as for `evaluate`.
        force: replace an existing file.
        runs: the folder of runs.
        quiet: print no progress.

    Raises:
        UsageError: there is no such target, format or data set, the file exists, or a package is missing.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if int8 and format != "onnx":
        raise UsageError(f"--int8 needs --format onnx, got {format}")
    classifier = load(target, runs=runs, device="cpu", quiet=quiet)
    if classifier.model == onnx_files.MODEL:
        raise UsageError(f"{target} is already an ONNX file. Export the run or weights file that it was made from.")
    path = Path(str(target).removeprefix(PRETRAINED))  # `lr0.1` is the name of a run
    name = classifier.model if isinstance(target, Classifier) else path.name.removesuffix(".safetensors")
    out = Path(files.with_home(out) if out else f"{name}{'-int8' * int8}.{format}")
    if out.suffix[1:] in FORMATS and out.suffix != f".{format}":
        raise UsageError(f"--out {str(out)!r}: should end in .{format}, or add --format {out.suffix[1:]}")
    check_new(out, force=force, ending=f".{format}")
    if format == "safetensors":
        save_weights(classifier, out)
        return Exported(out, out.stat().st_size)
    if not int8:
        difference = onnx_files.to_onnx(classifier, out)
        return Exported(out, out.stat().st_size, difference)
    data = evaluation_data(classifier, data, quiet)
    calibrated_on = data.train if len(data.train) else data.test
    onnx_files.to_int8(classifier, out, sample(calibrated_on.images, onnx_files.CALIBRATED))
    accuracies = (evaluate(each, data, quiet=quiet).accuracy for each in (out, classifier))
    return Exported(out, out.stat().st_size, None, *accuracies)
