"""Tuning: search for better settings of a recipe, in any number of processes; `search` comes first."""
