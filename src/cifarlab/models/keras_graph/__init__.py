"""The network that a Keras file describes."""

from cifarlab.models.keras_graph.network import LAYERS, KerasGraph, image_layout, keras_graph

__all__ = ["LAYERS", "KerasGraph", "image_layout", "keras_graph"]
