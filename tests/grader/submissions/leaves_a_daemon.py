"""Leaves a process behind that is in a session of its own."""

import os
import time

if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(300)
    os._exit(0)
