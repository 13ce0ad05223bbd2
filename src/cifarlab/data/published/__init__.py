"""Data sets that others published: what is known of each, where they come from, how they are decoded and cached."""
