"""Starts another server, on the port of the next submission."""

import os
import socket
import time

if not os.fork():
    os.setsid()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 8000 if os.environ["PORT"] != "8000" else 8001))
    listener.listen()
    time.sleep(300)
