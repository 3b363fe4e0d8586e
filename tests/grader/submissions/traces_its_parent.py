"""Attaches to its parents as a debugger would."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
for pid in (1, os.getppid()):
    if pid != os.getpid() and libc.ptrace(16, pid, 0, 0) == 0:
        print("found: attached to", pid, flush=True)
