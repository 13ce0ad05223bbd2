"""Doors to other libraries: trackers such as TensorBoard and MLflow, and scikit-learn."""
