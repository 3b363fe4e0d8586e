"""`make offline-pack` takes wheels alone, sums them up, and refuses in one sentence."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts import offline_pack

PIP = """
import pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
assert "--require-hashes" in sys.argv
assert sys.argv[sys.argv.index("--only-binary") + 1] == ":all:"
if "%(fails)s":
    sys.exit("Looking in places\\n%(fails)s\\n")
out.mkdir()
for name in "%(names)s".split():
    (out / name).write_text(name)
"""


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A stand-in for pip, which finds the files that the test puts into this list."""
    found: list[str] = []

    @contextmanager
    def stand_in() -> Iterator[list[str]]:
        fails = next((name for name in found if " " in name), "")
        program = tmp_path / "pip.py"
        program.write_text(PIP % {"fails": fails, "names": " ".join(found)})
        yield [sys.executable, str(program)]

    monkeypatch.setattr(offline_pack, "pip", stand_in)
    return found


def test_sums_are_those_of_the_wheels(pip: list[str], tmp_path: Path) -> None:
    """SHA256SUMS has each wheel, as sha256sum -c reads it, and the words say how to install."""
    pip += ["b-2-py3-none-any.whl", "a-1-py3-none-any.whl"]
    said = offline_pack.pack(tmp_path / "pack", "medium")
    assert f"PIP_NO_INDEX=1 PIP_FIND_LINKS={tmp_path / 'pack'}" in said
    assert (tmp_path / "pack/SHA256SUMS").read_text().splitlines() == [
        f"{hashlib.sha256(name.encode()).hexdigest()}  {name}" for name in sorted(pip)
    ]


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (["a-1-py3-none-any.whl", "b-2.tar.gz"], r"b-2\.tar\.gz is no wheel"),
        (["No matching distribution found for b"], r"get everything: No matching distribution"),
    ],
)
def test_what_cannot_be_installed_is_refused(
    pip: list[str], tmp_path: Path, found: list[str], sentence: str
) -> None:
    """A source that would have to be built, and a pip that fails, are one sentence."""
    pip += found
    with pytest.raises(offline_pack.NoPack, match=sentence):
        offline_pack.pack(tmp_path / "pack", "medium")


def test_never_over_something(pip: list[str], tmp_path: Path) -> None:
    """A folder that is there is left alone, and so is a lock that is not."""
    with pytest.raises(offline_pack.NoPack, match="not there yet"):
        offline_pack.pack(tmp_path, "medium")
    with pytest.raises(offline_pack.NoPack, match=r"no requirements/small\.txt"):
        offline_pack.pack(tmp_path / "pack", "small")


def test_there_is_a_pip() -> None:
    """Also for an environment that was made without one."""
    with offline_pack.pip() as command:
        subprocess.run([*command, "--version"], check=True, capture_output=True)
