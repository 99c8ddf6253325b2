"""`python -m mmlib` and `accelerate launch -m mmlib`: the command line."""

import sys

from mmlib.cli import main

if __name__ == "__main__":  # the workers of a feed import this module, too
    sys.exit(main())
