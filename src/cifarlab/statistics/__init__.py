"""Metrics, significance tests and comparisons: pure computation on arrays."""
