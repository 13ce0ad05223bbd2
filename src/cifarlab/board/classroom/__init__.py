"""A class: students hand in weights, and this machine evaluates them on images that only it has."""
