"""The networks: a registry, shared layers, the layer table, and a file per family."""

from cifarlab.models import allcnn, fastnet, kerascnn, lenet
from cifarlab.models.registry import build_model, model_names, name_of, register, try_step

__all__ = ["allcnn", "build_model", "fastnet", "kerascnn", "lenet", "model_names", "name_of", "register", "try_step"]
