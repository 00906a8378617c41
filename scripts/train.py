"""Train a pair: `python scripts/train.py part=all out=results/training`, or `train=emoji` (continues where it stopped)."""

import logging
import sys

from sdvar_exp.errors import UserError
from sdvar_exp.training.jobs import compose_training, run


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        run(compose_training(sys.argv[1:]))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
