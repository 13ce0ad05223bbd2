"""Where images come from, what is done to their classes, and how they reach a network in batches."""
