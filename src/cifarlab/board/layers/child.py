"""Compute the embedding of a target's test images in a process of its own: `python -m … TARGET` prints JSON."""

import json
import sys

from cifarlab.board.layers.pictures import embedding
from cifarlab.errors import CifarlabError, one_line
from cifarlab.inference import loading

if __name__ == "__main__":
    try:
        answer = embedding(loading.load(sys.argv[1], device="cpu"))
    except CifarlabError as error:
        answer = {"error": one_line(error)}
    except Exception as error:  # a network of one's own can raise any kind
        answer = {"error": f"the embedding failed ({type(error).__name__}: {one_line(error)[:200]})"}
    print(json.dumps(answer))
