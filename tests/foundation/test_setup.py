"""`scripts/setup.sh` with a PATH of stand-ins: what it chooses, what it refuses, what it skips."""

import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.check_docs import ROOT

TOOLS = ("sh", "cat", "cmp", "cp", "dirname", "env", "grep", "head", "mkdir", "rm", "sed")
PYTHON = """#!/bin/sh
case $* in
*version_info*) echo VERSION ;;
*_base_executable*) echo "$0" ;;
*ensurepip*) [ ! -e "${0%/*}/no-ensurepip" ] ;;
*"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*"-m pip install"*)
    echo "pip $* PIP_TARGET=${PIP_TARGET-} PIP_INDEX_URL=${PIP_INDEX_URL-}" >>calls
    [ ! -e fail ]
    ;;
*) exit 9 ;;
esac
"""
UV = """#!/bin/sh
case $* in
--version) ;;
"python find"*) echo "${0%/*}/found-by-uv" ;;
"venv --no-project --python "*) mkdir -p .venv/bin && cp "$4" .venv/bin/python ;;
"pip install --python .venv/bin/python"*)
    echo "uv $* UV_SYSTEM_PYTHON=${UV_SYSTEM_PYTHON-}" >>calls
    ;;
*) exit 9 ;;
esac
"""


class Machine:
    """A computer with only the given programs, and a copy of the repository in a spaced path."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.repository = folder / "my course"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        for name in ("scripts", "requirements"):
            shutil.copytree(ROOT / name, self.repository / name)

    def has(self, name: str, program: str, version: str = "3.11") -> None:
        path = self.bin / name
        path.write_text(program.replace("VERSION", version))
        path.chmod(0o755)

    def setup(self, lock: str = "medium", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", self.repository / "scripts/setup.sh", lock],
            env={"PATH": str(self.bin), **env},
            cwd=self.bin,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[str]:
        """What installers were asked for since the last look."""
        log = self.repository / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def assert_one_sentence(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_no_python_is_one_sentence(machine: Machine) -> None:
    """Without any Python, the sentence says which to install."""
    assert_one_sentence(machine.setup(), "no Python was found; install Python 3.11 or newer")


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.10"])
def test_old_python_is_one_sentence(machine: Machine, version: str) -> None:
    """Too old a Python is named, with what to install."""
    machine.has("python3", PYTHON, version)
    done = machine.setup()
    assert_one_sentence(done, f"python3 is Python {version}", "install Python 3.11 or newer")


def test_python_that_was_asked_for_must_run(machine: Machine) -> None:
    """PYTHON= is not silently replaced by another one."""
    machine.has("python3", PYTHON)
    assert_one_sentence(machine.setup(PYTHON="python3.99"), "PYTHON=python3.99 is not")


def test_python_without_venv_is_one_sentence(machine: Machine) -> None:
    """Debian leaves venv out: the sentence names the package."""
    machine.has("python3", PYTHON)
    (machine.bin / "no-ensurepip").touch()
    assert_one_sentence(machine.setup(), "apt install python3.11-venv")


def test_no_network_is_one_sentence(machine: Machine) -> None:
    """What pip prints at length comes down to the network."""
    failing = PYTHON.replace("[ ! -e fail ]", "echo 1: NewConnectionError; echo 2; exit 1")
    machine.has("python3", failing)
    assert_one_sentence(machine.setup(), "the package index could not be reached")


def test_broken_and_old_pythons_are_passed_over(machine: Machine) -> None:
    """A shim that does not run and an old python3 do not hide a good one."""
    machine.has("python3", PYTHON, "3.9")
    machine.has("python3.13", "#!/bin/sh\nexit 127\n")
    machine.has("python3.12", PYTHON, "3.12")
    machine.has("python3.11", PYTHON, "3.11")
    assert machine.setup().returncode == 0
    assert "echo 3.12" in (machine.repository / ".venv/bin/python").read_text()


def test_python3_comes_first(machine: Machine) -> None:
    """What someone calls python3 is what they get, even beside a newer one."""
    machine.has("python3", PYTHON, "3.12")
    machine.has("python3.14", PYTHON, "3.14")
    assert machine.setup().returncode == 0
    assert "echo 3.12" in (machine.repository / ".venv/bin/python").read_text()


def test_pip_installs_hashed_wheels_then_the_project(machine: Machine) -> None:
    """The lock first, then the project without anything unpinned; settings cannot redirect it."""
    machine.has("python3", PYTHON)
    assert machine.setup(PIP_TARGET="/elsewhere", PIP_INDEX_URL="mirror").returncode == 0
    packages, project = machine.calls()
    assert "--require-hashes --only-binary :all: -r requirements/medium.txt" in packages
    assert "--no-deps --no-build-isolation -e ." in project
    assert packages.endswith("PIP_TARGET= PIP_INDEX_URL=mirror")


def test_uv_is_used_where_there_is_one(machine: Machine) -> None:
    """With uv, pip and ensurepip are not needed, and uv's own Pythons count."""
    machine.has("uv", UV)
    machine.has("found-by-uv", PYTHON, "3.14")
    assert machine.setup(UV_SYSTEM_PYTHON="1").returncode == 0
    packages, project = machine.calls()
    assert "--require-hashes --only-binary :all: --compile-bytecode -r requirements" in packages
    assert packages.endswith("UV_SYSTEM_PYTHON=")
    assert "--no-deps --no-build-isolation -e ." in project


def test_second_run_does_nothing(machine: Machine) -> None:
    """What is installed is not installed again, nor said again."""
    machine.has("python3", PYTHON)
    machine.setup()
    assert len(machine.calls()) == 2
    again = machine.setup()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert machine.calls() == []


def test_everything_includes_medium(machine: Machine) -> None:
    """After the large lock the small one needs nothing; the other way round it does."""
    machine.has("python3", PYTHON)
    machine.setup("medium")
    machine.setup("all")
    assert len(machine.calls()) == 4
    machine.setup("medium")
    assert machine.calls() == []


def test_new_lock_is_installed(machine: Machine) -> None:
    """A changed lock is installed into the same .venv, which then holds no older promise."""
    machine.has("python3", PYTHON)
    lock = machine.repository / "requirements/medium.txt"
    before = lock.read_text()
    machine.setup("all")
    for text in (before + "# new\n", before):
        lock.write_text(text)
        (machine.repository / "requirements/all.txt").write_text(text)
        machine.calls()
        machine.setup("medium")
        assert len(machine.calls()) == 2


def test_failed_install_does_not_count(machine: Machine) -> None:
    """The next run starts over in a new .venv, even if the lock is again what it was."""
    machine.has("python3", PYTHON)
    machine.setup()
    lock = machine.repository / "requirements/medium.txt"
    before = lock.read_text()
    lock.write_text(before + "# new\n")
    (machine.repository / "fail").touch()
    assert machine.setup().returncode != 0
    lock.write_text(before)
    (machine.repository / "fail").unlink()
    assert_makes_a_new_venv(machine)


def test_venv_of_a_python_that_has_gone_is_replaced(machine: Machine) -> None:
    """An upgrade of the system's Python leaves .venv without one."""
    machine.has("python3", PYTHON)
    machine.setup()
    (machine.repository / ".venv/bin/python").unlink()
    assert_makes_a_new_venv(machine)


def test_venv_of_an_old_python_is_replaced(machine: Machine) -> None:
    """A Python below the lowest supported one does not count, whatever is installed for it."""
    machine.has("python3", PYTHON)
    machine.setup()
    (machine.repository / ".venv/bin/python").write_text(PYTHON.replace("VERSION", "3.10"))
    assert_makes_a_new_venv(machine)


def test_venv_that_moved_is_replaced(machine: Machine) -> None:
    """A .venv knows its own path, so a copied or renamed folder needs another."""
    machine.has("python3", PYTHON)
    machine.setup()
    machine.repository = machine.repository.rename(machine.repository.with_name("moved"))
    assert_makes_a_new_venv(machine)


def assert_makes_a_new_venv(machine: Machine) -> None:
    machine.calls()
    old = machine.repository / ".venv/of-the-old-one"
    old.touch()
    assert machine.setup().returncode == 0
    assert len(machine.calls()) == 2
    assert not old.exists()
