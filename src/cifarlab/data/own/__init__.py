"""Data sets in the user's own files; `loading` is the way in. `data.arrays` has images in memory and in NumPy files."""
