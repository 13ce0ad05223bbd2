"""Run folders to figures, an HTML report and a model card."""
