"""`python -m cifarlab` is `cifarlab`."""

import os
import sys

if __name__ == "__main__":
    if sys.path[0] in ("", os.getcwd()):  # where a file random.py would replace the standard library's
        del sys.path[0]
    from cifarlab.cli import main

    main()
