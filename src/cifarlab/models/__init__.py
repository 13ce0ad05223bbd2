"""The networks: a registry, shared layers, the layer table, and a file per family."""

from cifarlab.models import allcnn, fastnet, keras_graph, keras_tutorials, lenet
from cifarlab.models.registry import build_model, is_from_file, model_names, register, resolve_model_name, try_step

__all__ = [
    "allcnn",
    "build_model",
    "fastnet",
    "is_from_file",
    "keras_graph",
    "keras_tutorials",
    "lenet",
    "model_names",
    "register",
    "resolve_model_name",
    "try_step",
]
