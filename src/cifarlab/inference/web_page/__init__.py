"""Write a page that classifies pictures in a browser, with the network and the runtime that computes it inside.

`page.html`, `page.css` and `page.js` are the page; `onnxruntime-web` holds the runtime as its authors built it. The
page opens from disk, without a server or a network, and its security policy forbids every connection.
"""

import base64
import gzip
import hashlib
from importlib.metadata import version
from pathlib import Path

import jinja2

from cifarlab.data.catalogue import DESCRIPTIONS
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.prediction import SURE

MOST_BYTES = 20_000_000  # of a page that phones open without trouble
RUNTIME_VERSION = "1.30.0"
_FOLDER = Path(__file__).parent
_RUNTIME = _FOLDER / "onnxruntime-web"


def to_html(classifier: Classifier, network: bytes, name: str) -> bytes:
    """Return the page for a classifier whose ONNX file is `network`; the page calls it `name`."""
    style, script = ((_FOLDER / file).read_text(encoding="utf-8") for file in ("page.css", "page.js"))
    dataset, accuracy = classifier.about.get("dataset"), classifier.about.get("test_accuracy")
    parts = {
        "runtime": (_RUNTIME / "ort.wasm.bundle.min.mjs").read_bytes(),
        "wasm": (_RUNTIME / "ort-wasm-simd-threaded.wasm.gz").read_bytes(),
        "notices-gzip": (_RUNTIME / "ThirdPartyNotices.txt.gz").read_bytes(),
        "network": gzip.compress(network, mtime=0),
    }
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (_FOLDER / "page.html").read_text(encoding="utf-8")
    )
    return page.render(
        name=name,
        version=version("cifarlab"),
        runtime_version=RUNTIME_VERSION,
        accuracy=f"{accuracy:.1%}".replace("%", "\N{NO-BREAK SPACE}%") if isinstance(accuracy, float) else "",
        dataset=dataset if dataset in DESCRIPTIONS else "",  # that of a folder would give its path away
        calibrated="temperature" in classifier.about,
        settings={
            "classes": classifier.classes,
            "size": classifier.size,
            "channels": classifier.in_channels,
            "resize": classifier.resize,
            "tta": classifier.tta,
            "sure": SURE,
        },
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        licence=(_RUNTIME / "LICENSE").read_text(encoding="utf-8"),
        parts={part: base64.b64encode(content).decode() for part, content in parts.items()},
    ).encode()


def _hash(text: str) -> str:
    """Return a style or script as the page's security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
