"""Prints without an end."""

import os

LINE = b"x" * 65536
for _ in range(4096):
    os.write(1, LINE)
