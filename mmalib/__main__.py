"""`python -m mmalib`: see `mmalib.app.cli`.

Ctrl-C or a polite kill ends it at once. Whatever a study has written is whole at any moment, and its kernel ends when
it does. Unwinding gains nothing: from the middle of papermill's event loop it would at times end in a traceback.
"""

import os
import signal
import sys

from mmalib.app.cli import main


def _end(*_) -> None:
    rest = "; started again, it goes on from the last finished run" if sys.argv[1:2] == ["study"] else ""
    line = f"mmalib: interrupted{rest}\n"
    os.write(2, (("\n" if os.isatty(2) else "") + line).encode())
    os._exit(130)


for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
        signal.signal(number, _end)
sys.exit(main())
