"""Takes memory in many processes, each within its own bounds."""

import os
import time

for _ in range(12):
    if not os.fork():
        held = bytearray(b"x") * (160 * 1024 * 1024)
        time.sleep(30)
time.sleep(5)
