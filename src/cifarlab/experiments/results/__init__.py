"""Results of experiments: records of runs as means beside the published results, as tables and as pictures."""
