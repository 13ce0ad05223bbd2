"""Use a trained network: load it, evaluate it, predict, explain a prediction, export it."""
