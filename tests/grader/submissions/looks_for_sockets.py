"""Connects to the Unix sockets of others."""

import glob
import socket

for path in glob.glob("/tmp/**/*", recursive=True) + glob.glob("/run/**/*.sock*", recursive=True):
    with socket.socket(socket.AF_UNIX) as other:
        try:
            other.connect(path)
        except OSError:
            continue
    print("found: connected to", path)
