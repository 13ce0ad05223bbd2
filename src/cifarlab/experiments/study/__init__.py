"""Studies: one recipe with some keys varied, trained as a table of runs, and what the table says."""
