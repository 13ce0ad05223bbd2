"""Tunings: a search for better settings of one recipe, by any number of processes, and what it found."""
