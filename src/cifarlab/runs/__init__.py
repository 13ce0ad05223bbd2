"""Run folders: their files, their records, and how they are found by name."""
