"""`make test-offline`: a pack of the medium track, made for real, and installed with no index.

It downloads some 30 MB, so it is no part of `make test`.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.check_docs import ROOT
from scripts.offline_pack import pack

PARTS = ("scripts", "requirements", "shared", "medium", "advanced", "pyproject.toml", "README.md")
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offline") / "pack"
    pack(folder, "medium")
    return folder


def course(folder: Path) -> Path:
    copy = folder / "my course"
    copy.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy)
    return copy


def setup(copy: Path, wheels: Path) -> subprocess.CompletedProcess[str]:
    """With the pack as the only place, and a network that ends here."""
    ours = re.compile(r"(PIP|UV)_|PYTHON", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    places = {"PIP_FIND_LINKS": str(wheels), "UV_FIND_LINKS": str(wheels)}
    cut = {"PIP_NO_INDEX": "1", "UV_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1", "UV_NO_CACHE": "1"}
    network = {"HTTPS_PROXY": NOWHERE, "HTTP_PROXY": NOWHERE, "https_proxy": NOWHERE}
    return subprocess.run(
        ["sh", "scripts/setup.sh", "medium"],
        cwd=copy,
        env={**kept, **places, **cut, **network},
        capture_output=True,
        text=True,
        check=False,
    )


def test_installs_with_no_index(wheels: Path, tmp_path: Path) -> None:
    """From the pack alone the medium service can be imported, in an environment of its own."""
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=wheels, check=True)
    copy = course(tmp_path)
    done = setup(copy, wheels)
    assert done.returncode == 0, done.stderr
    asked = [
        ".venv/bin/python",
        "-c",
        "import medium.app.main as m; print(m.app.title, m.__file__)",
    ]
    told = subprocess.run(asked, cwd=copy, capture_output=True, text=True, check=True).stdout
    assert told.startswith("Agent service, medium track")
    assert str(copy) in told


def test_swapped_wheel_is_refused(wheels: Path, tmp_path: Path) -> None:
    """The lock's hashes are checked, whatever SHA256SUMS says."""
    swapped = tmp_path / "swapped"
    shutil.copytree(wheels, swapped)
    wheel = next(swapped.glob("starlette-*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    done = setup(course(tmp_path), swapped)
    assert done.returncode != 0
    assert "hash" in done.stderr.lower()
