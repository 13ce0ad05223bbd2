"""Data, from files to batches on a device; `catalogue` loads data sets by name, `dataset` has their types."""
