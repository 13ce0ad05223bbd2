"""Other libraries: the trackers TensorBoard and MLflow, and scikit-learn."""
