"""Read Keras files without Keras, and import their networks.

A layer of Keras is added in two places: `layer_settings` lists its settings, `cifarlab.models.keras_graph` computes it.
"""
