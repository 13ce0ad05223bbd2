"""Load the classifier of a target: a run, by name, path or object; a weights file; `pretrained:NAME`; a classifier."""

from pathlib import Path

from cifarlab import files
from cifarlab.device import choose_device
from cifarlab.errors import UsageError
from cifarlab.inference import onnx_files, weights
from cifarlab.inference.classifier import Classifier, to_device
from cifarlab.inference.weights_file import load_weights
from cifarlab.progress import notice
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import PRETRAINED, find_run

Target = RunFolder | Classifier | str | Path


def load(target: Target, *, runs: Path | str | None = None, device: str = "auto", quiet: bool = True) -> Classifier:
    """Load the classifier of a run or of a weights file, ready to predict.

    Args:
        target: a run, its name or path, a weights file or a loaded classifier.
        runs: the folder of runs.
        device: where the classifier computes: `auto`, `cpu` or `cuda`.
        quiet: do not warn about a run that has not finished.

    Raises:
        UsageError: there is no such run or file, or it holds no weights yet.
    """
    place = choose_device(device)
    if isinstance(target, Classifier):
        return target
    target = files.with_home(target) if isinstance(target, str | Path) else target
    if str(target).lower().endswith(".onnx"):
        classifier = onnx_files.from_onnx(Path(str(target)))
    else:
        path = _weights_path(target, runs)
        if (path.parent / "run.json").exists():
            run = RunFolder(path.parent)
            if not path.exists():
                how_to_fix = f"the run {run.name!r} has no weights yet. Resume it: cifarlab resume {run.path}"
                raise UsageError(f"{path} is missing" if run.status == "finished" else how_to_fix)
            if run.status != "finished":
                epochs = f"{len(run.history)} of {run.record.recipe.epochs} epochs"
                notice(f"{run.name} is {run.status}: its weights come from the first {epochs}.", quiet=quiet)
                notice("A test now is not that of its protocol, which comes after the last epoch.", quiet=quiet)
            classifier = load_weights(path)
            run.check_identity(path, classifier.about)
        else:
            classifier = load_weights(path)
    to_device(classifier, place)
    return classifier


def absolute_target(target: str, runs: Path | str | None = None) -> str:
    """Return the absolute path of a run or weights file, which other processes find; `pretrained:NAME` as it is."""
    if target.startswith(PRETRAINED):
        return target
    is_file = target.lower().endswith((".onnx", ".safetensors"))
    return str((Path(files.with_home(target)) if is_file else find_run(target, runs, weights.names())).resolve())


def _weights_path(target: RunFolder | str | Path, runs: Path | str | None) -> Path:
    if str(target).startswith(PRETRAINED):
        return weights.path_of(str(target).removeprefix(PRETRAINED))
    if isinstance(target, str | Path) and str(target).lower().endswith(".safetensors"):
        RunFolder((path := Path(target)).parent).check_sum(path.name)
        return path
    return RunFolder(find_run(target, runs, weights.names())).weights
