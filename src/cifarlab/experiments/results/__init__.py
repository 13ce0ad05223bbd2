"""Records of many runs to figures beside the published ones, to tables and to pictures."""

from cifarlab.experiments.results.pictures import draw
from cifarlab.experiments.results.records import early_stop, grouped, rows, tested
from cifarlab.experiments.results.tables import markdown, merged_accuracy, tables

__all__ = ["draw", "early_stop", "grouped", "markdown", "merged_accuracy", "rows", "tables", "tested"]
