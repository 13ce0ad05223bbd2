"""Read Keras files without Keras, and import their networks."""
