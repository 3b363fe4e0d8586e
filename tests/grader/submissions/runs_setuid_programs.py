"""Runs whatever is there with other rights than its own."""

import subprocess

for words in (["su", "-c", "id"], ["mount"], ["/usr/bin/passwd", "-S"], ["sudo", "-n", "id"]):
    try:
        result = subprocess.run(words, capture_output=True, text=True, timeout=2)
    except (OSError, subprocess.SubprocessError):
        continue
    if "uid=0" in result.stdout:
        print("found:", result.stdout)
