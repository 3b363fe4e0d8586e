"""Makes more files than a disk has room to name."""

import os
import tempfile

folder = tempfile.mkdtemp()
for number in range(50_000):
    try:
        os.close(os.open(f"{folder}/{number}", os.O_CREAT))
    except OSError:
        break
