"""Checks of a data set's quality: with files and pixels alone, or with the logits of a network."""
