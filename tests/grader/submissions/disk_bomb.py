"""Fills the disk."""

import tempfile

for _ in range(40):
    with tempfile.NamedTemporaryFile(delete=False) as file:
        try:
            file.write(b"x" * (16 * 1024 * 1024))
        except OSError:
            break
raise SystemExit(1)
