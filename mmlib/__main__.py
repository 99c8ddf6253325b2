"""`python -m mmlib` and `accelerate launch -m mmlib`: the command line."""

import sys

from mmlib.cli import main

sys.exit(main())
