"""Train a network: preparation, the loop, its state between two steps, optimizers and schedules."""
