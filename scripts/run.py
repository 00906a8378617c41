"""`python scripts/run.py X` is `sdvar-exp run X`."""

import sys

from sdvar_exp.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
