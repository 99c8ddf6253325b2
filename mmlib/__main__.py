"""`python -m mmlib`, and `accelerate launch -m mmlib pretrain …` for several GPUs."""

import sys

from mmlib.cli import main

sys.exit(main())
