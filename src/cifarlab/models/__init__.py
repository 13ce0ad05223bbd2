"""The networks: a registry, layers that they share, the layer table, and a file per family.

To add a network, write a function with the decorator `register` in a file of this folder, and import that file below.
The function's name becomes the network's name, with `-` for `_`; `lenet.py` shows how. To add a layer to networks
imported from Keras, see `keras_graph`.
"""

from cifarlab.models import (  # noqa: F401  # registers their networks
    allcnn,
    convmixer,
    densenet,
    fastnet,
    keras_graph,
    keras_tutorials,
    lenet,
    mobilenet,
    resnet,
    transformers,
    vgg,
)
from cifarlab.models.own_networks import source_file
from cifarlab.models.registry import build_model, model_names, register, resolve_model_name, try_step

__all__ = ["build_model", "model_names", "register", "resolve_model_name", "source_file", "try_step"]
