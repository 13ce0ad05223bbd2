"""Evaluate weights that a student handed in, in a process of its own with limits: `python -m … FILE DATA`.

It writes one line of JSON: which images are classified correctly, or an error. Weights never run code of their own.
"""

import base64
import contextlib
import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from cifarlab.errors import CifarlabError, UsageError, one_line

MOST_MEMORY = 12 * 2**30  # bytes of address space; PyTorch reserves some gigabytes by itself
MOST_PROCESSOR_SECONDS = 1_800


def main(file: str, data: str) -> None:
    """Write the answer about a weights file to standard output."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has limits or allows setting them
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_PROCESSOR_SECONDS, MOST_PROCESSOR_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    try:
        answer = evaluate(Path(file), data)
    except CifarlabError as error:
        text = one_line(error).replace(file, "the file").replace(data, "the held-out data")  # not their places here
        answer = {"error": text[:500]}
    except Exception as error:  # libraries raise any kind for damaged files
        answer = {"error": f"the file cannot be evaluated ({type(error).__name__}: {one_line(error)[:200]})"}
    print(json.dumps(answer))


def evaluate(file: Path, data: str) -> dict[str, object]:
    """Return which images of a data set a weights file classifies correctly, and a checksum of its answers.

    Raises:
        UsageError: the file would run code, has another task, or cannot be evaluated.
    """
    import safetensors

    from cifarlab.inference import loading, targets
    from cifarlab.models.own_networks import source_file

    if file.suffix == ".safetensors":
        with contextlib.suppress(safetensors.SafetensorError), safetensors.safe_open(file, framework="np") as weights:
            if source_file((weights.metadata() or {}).get("model", "")):
                how_to_fix = "Hand in an ONNX file: cifarlab export RUN --format onnx --out FILE."
                raise UsageError(f"the network is defined in a Python file, which is not run here. {how_to_fix}")
    classifier = loading.load(file, device="cpu")
    about = classifier.about
    if about.get("drop") or about.get("merge"):
        raise UsageError("the network was trained with dropped or merged classes, which makes another, easier task")
    about = {key: value for key, value in about.items() if key != "labels"}  # a file could correct the held-out labels
    evaluation = targets.evaluate(replace(classifier, about=about), data)
    answers = evaluation.logits.argmax(axis=1)
    correct = answers == evaluation.labels
    return {
        "correct": base64.b64encode(np.packbits(correct).tobytes()).decode(),
        "answers_sha256": hashlib.sha256(answers.astype("<i4").tobytes()).hexdigest(),
        "images": len(correct),
        "model": classifier.model[:100],
        "recipe": str(about.get("recipe", ""))[:100],
    }


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a graphics processor needs more address space than the limit
    main(*sys.argv[1:])
