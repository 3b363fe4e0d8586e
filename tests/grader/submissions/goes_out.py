"""Looks for a network."""

import socket

for host in ("1.1.1.1", "10.0.0.1", "169.254.169.254", "192.168.0.1"):
    try:
        socket.create_connection((host, 80), timeout=0.2)
    except OSError:
        continue
    print("found: reached", host)
