"""Export a trained network to a file for other programs, and check that file."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from cifarlab import files
from cifarlab.data.dataset import Data, sample
from cifarlab.errors import UsageError, unknown
from cifarlab.inference import onnx_files, web_page
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.loading import Target, load
from cifarlab.inference.targets import evaluate, evaluation_data
from cifarlab.inference.weights_file import save_weights
from cifarlab.progress import notice
from cifarlab.runs.folder import check_new
from cifarlab.runs.listing import PRETRAINED

FORMATS = ("onnx", "safetensors", "html")


@dataclass(frozen=True)
class Exported:
    """An exported file, and how closely it agrees with the network."""

    path: Path
    bytes: int  # size of the file
    difference: float | None = None  # largest difference of a probability on random images, for fp32 networks
    accuracy: float | None = None  # of the file on the test images, for int8 networks
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
            `channels = "mono"`, and returns probabilities. An HTML file is a page that classifies pictures in a
            browser, with the ONNX file inside.
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
    if int8 and format == "safetensors":
        raise UsageError(f"--int8 needs --format onnx or html, got {format}")
    classifier = load(target, runs=runs, device="cpu", quiet=quiet)
    is_onnx = classifier.model == onnx_files.MODEL
    if is_onnx and (format != "html" or int8 or isinstance(target, Classifier)):
        raise UsageError(f"{target} is already an ONNX file. Export the run or weights file that it was made from.")
    path = Path(str(target).removeprefix(PRETRAINED))  # `lr0.1` is the name of a run
    name = classifier.model if isinstance(target, Classifier) else path.name.removesuffix(".safetensors")
    name = name.removesuffix(".onnx") if is_onnx else name
    out = Path(files.with_home(out) if out else f"{name}{'-int8' * int8}.{format}")
    if out.suffix[1:] in FORMATS and out.suffix != f".{format}":
        raise UsageError(f"--out {str(out)!r}: should end in .{format}, or add --format {out.suffix[1:]}")
    check_new(out, force=force, ending=f".{format}")
    if format == "safetensors":
        save_weights(classifier, out)
        return Exported(out, out.stat().st_size)
    if format == "onnx":
        return _write_onnx(classifier, out, int8, data, quiet)
    if is_onnx:
        exported, network = Exported(out, 0), Path(files.with_home(path)).read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            exported = _write_onnx(classifier, Path(folder) / "network.onnx", int8, data, quiet)
            network = exported.path.read_bytes()
    page = web_page.to_html(classifier, network, Path(name).name)
    files.write_bytes(out, page)
    if len(page) > web_page.MOST_BYTES:
        advice = "" if int8 or is_onnx else " --int8 makes the network four times smaller."
        limit = f"{web_page.MOST_BYTES / 1e6:.0f} MB"
        notice(f"{out} has {len(page) / 1e6:.1f} MB. Phones may not open more than {limit}.{advice}", quiet=quiet)
    return replace(exported, path=out, bytes=len(page))


def _write_onnx(classifier: Classifier, out: Path, int8: bool, data: Data | str | None, quiet: bool) -> Exported:
    if not int8:
        difference = onnx_files.to_onnx(classifier, out)
        return Exported(out, out.stat().st_size, difference)
    data = evaluation_data(classifier, data, quiet)
    calibrated_on = data.train if len(data.train) else data.test
    onnx_files.to_int8(classifier, out, sample(calibrated_on.images, onnx_files.CALIBRATED))
    accuracies = (evaluate(each, data, quiet=quiet).accuracy for each in (out, classifier))
    return Exported(out, out.stat().st_size, None, *accuracies)
