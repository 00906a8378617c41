"""`python scripts/push.py X` is `sdvar-exp push X`."""

import sys

from sdvar_exp.cli import main

if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
