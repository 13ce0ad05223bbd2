"""The page that goes through suspicious images of a run's data and writes corrected labels beside the data."""
