"""Looks for secrets in its environment, and in that of others."""

import os
import pathlib

KNOWN = {"HOME", "PATH", "LANG", "PORT", "OPENAI_API_KEY", "OPENAI_BASE_URL"}
if more := set(os.environ) - KNOWN - {name for name in os.environ if name.startswith("RATE_LIMIT_")}:
    print("found", more)
for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
    print("found", path.read_bytes())
