"""`python -m cifarlab` is `cifarlab`."""

from cifarlab.cli import main

if __name__ == "__main__":
    main()
