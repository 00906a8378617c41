"""Send studies to Weights & Biases: `python scripts/push.py results/STUDY --mode online`."""

from __future__ import annotations

import sys

from sdvar_exp.tracking.command import main

if __name__ == "__main__":
    sys.exit(main())
