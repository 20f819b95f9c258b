"""`python -m mmalib`: see `mmalib.cli`."""

import sys

from mmalib.cli import main

sys.exit(main())
