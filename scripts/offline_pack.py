"""`make offline-pack OUT=folder`: every package of the course, for a room without internet.

Wheels alone, for this system and this Python, with the hashes of the lock; beside them SHA256SUMS,
as `sha256sum -c` reads it. `scripts/setup.sh` installs from the folder when pip and uv are told so.
"""

import hashlib
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.check_docs import ROOT

SUMS = "SHA256SUMS"


class NoPack(Exception):
    """The text is one sentence that says what is in the way."""


def main(arguments: list[str]) -> int:
    out, lock = (*arguments, "", "")[:2]
    try:
        print(pack(Path(out or "."), lock or "all"))
    except NoPack as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def pack(out: Path, lock: str = "all") -> str:
    """Fill a new folder; what to do with it. Raises NoPack."""
    listed = ROOT / "requirements" / f"{lock}.txt"
    if not listed.is_file():
        raise NoPack(f"There is no {listed.relative_to(ROOT)}.")
    if out.exists():
        raise NoPack(f"OUT={out} must name a folder that is not there yet.")
    with pip() as command:
        done = subprocess.run(
            [
                *command,
                *("download", "--disable-pip-version-check", "--no-input", "--no-deps"),
                *("--require-hashes", "--only-binary", ":all:"),
                *("--requirement", str(listed), "--dest", str(out)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise NoPack(f"pip could not get everything: {last_line(done.stderr)}")
    if odd := sorted(path.name for path in out.iterdir() if path.suffix != ".whl"):
        raise NoPack(f"{odd[0]} is no wheel, and would have to be built.")
    wheels = sorted(out.glob("*.whl"))
    (out / SUMS).write_text("".join(map(line_of, wheels)), encoding="ascii")
    size = sum(wheel.stat().st_size for wheel in wheels) // 1_000_000
    place = out.resolve()
    return (
        f"{len(wheels)} packages, {size} MB, for {sysconfig.get_platform()} and Python"
        f" {sys.version_info.major}.{sys.version_info.minor}, are in {out}. To install from it:\n"
        f"  PIP_NO_INDEX=1 PIP_FIND_LINKS={place} UV_NO_INDEX=1 UV_FIND_LINKS={place} make medium"
    )


def line_of(wheel: Path) -> str:
    return f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n"


def last_line(text: str) -> str:
    return next(
        (line for line in reversed(text.splitlines()) if line.strip()), "it does not say why"
    )


@contextmanager
def pip() -> Iterator[list[str]]:
    """A pip for this Python: an environment that uv has made has none."""
    own = [sys.executable, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True, check=False).returncode == 0:
        yield own
        return
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(
            [sys.executable, "-m", "venv", folder], capture_output=True, check=False
        )
        if made.returncode:
            raise NoPack("This Python came without venv; doctor says how to get it.")
        yield [str(Path(folder) / "bin" / "python"), "-m", "pip"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
