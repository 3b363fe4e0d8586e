"""Sends its parents signals, and process 1."""

import os
import signal

for pid in (os.getppid(), 1, os.getpgid(0)):
    for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
        if pid != os.getpid():
            try:
                os.kill(pid, number)
            except OSError:
                pass
