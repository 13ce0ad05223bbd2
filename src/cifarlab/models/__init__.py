"""The networks: a registry, shared layers, the layer table, and a file per family."""

from cifarlab.models import allcnn, fastnet, keras_graph, keras_tutorials, lenet
from cifarlab.models.registry import build_model, is_own, model_names, name_of, register, try_step

__all__ = [
    "allcnn",
    "build_model",
    "fastnet",
    "is_own",
    "keras_graph",
    "keras_tutorials",
    "lenet",
    "model_names",
    "name_of",
    "register",
    "try_step",
]
