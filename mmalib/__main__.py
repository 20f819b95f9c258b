"""`python -m mmalib`: see `mmalib.app.cli`."""

import sys

from mmalib.app.cli import main

sys.exit(main())
