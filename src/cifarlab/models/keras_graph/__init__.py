"""The network of an imported Keras model. It computes what Keras computes, and its JSON is part of weights files.

To add a layer of Keras, write a class in `layers_with_weights` or a function in `layers_without_weights`, add it to the
table there, and list its settings in `cifarlab.keras.layer_settings`.
"""

from cifarlab.models.keras_graph.architecture import Architecture, LayerDescription, Node
from cifarlab.models.keras_graph.network import KerasGraph
from cifarlab.models.keras_graph.planning import LAYERS, image_layout
from cifarlab.models.keras_graph.shapes import Inputs, run_layer

__all__ = ["LAYERS", "Architecture", "Inputs", "KerasGraph", "LayerDescription", "Node", "image_layout", "run_layer"]
