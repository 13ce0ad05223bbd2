"""Data sets of one's own pictures, made in the browser: where they are kept, how uploads are decoded, their routes."""
