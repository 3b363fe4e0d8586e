"""Writes to the pipe that says it is ready, and then does nothing."""

import os
import time

for fd in range(3, 64):
    try:
        os.write(fd, b"ready")
    except OSError:
        pass
time.sleep(60)
