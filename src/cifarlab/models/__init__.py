"""The networks: a registry, shared layers, the layer table, and a file per family."""

from cifarlab.models import allcnn, fastnet, kerascnn, kerasgraph, lenet
from cifarlab.models.registry import build_model, is_own, model_names, name_of, register, try_step

__all__ = [
    "allcnn",
    "build_model",
    "fastnet",
    "is_own",
    "kerascnn",
    "kerasgraph",
    "lenet",
    "model_names",
    "name_of",
    "register",
    "try_step",
]
