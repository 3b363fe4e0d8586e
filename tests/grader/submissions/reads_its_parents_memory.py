"""Reads the memory of the processes above it."""

import os

for pid in (1, os.getppid()):
    try:
        open(f"/proc/{pid}/mem", "rb").read(1)
    except OSError:
        continue
    except Exception as exc:
        print("found", exc)
