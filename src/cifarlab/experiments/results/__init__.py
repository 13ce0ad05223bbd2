"""Results of experiments: `records` of runs and their means beside the published results, `tables` and `pictures`."""
