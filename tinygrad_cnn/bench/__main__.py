"""``python -m tinygrad_cnn.bench`` = ``tinygrad-cnn bench``."""

import sys

from tinygrad_cnn.bench.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
