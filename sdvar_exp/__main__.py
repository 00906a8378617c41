"""`python -m sdvar_exp` is `sdvar-exp`."""

import sys

from sdvar_exp.cli import main

if __name__ == "__main__":
    sys.exit(main())
