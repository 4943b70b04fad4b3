"""Runs a program that starts others, until it is asked to end."""

import signal
import sys
from collections.abc import Callable


def run(main: Callable[[], None]) -> None:
    """SIGTERM and control-C end it as an exception does, and with it what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
