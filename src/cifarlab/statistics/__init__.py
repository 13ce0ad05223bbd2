"""Compute metrics, test differences for significance and compare runs. Pure functions of arrays."""
