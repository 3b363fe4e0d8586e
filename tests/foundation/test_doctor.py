"""`make doctor` on computers that are broken, each in one way: it says which, and what mends it."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import doctor
from scripts.check_docs import ROOT

TOOLS = ("sh", "cat", "cp", "dirname", "env", "make")
PYTHON = f"""#!/bin/sh
case "$*" in
*version_info\\[:2\\]*) echo VERSION ;;
*ensurepip*) [ ! -e "${{0%/*}}/no-ensurepip" ] ;;
*) exec {sys.executable} "$@" ;;
esac
"""
"""A real Python that says that it is another one."""

WSL_1 = "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com)"
WSL_2 = "Linux version 6.6.87.2-microsoft-standard-WSL2 (root@439a258ad544)"
MOUNTS = """/dev/sdc / ext4 rw,relatime 0 0
C:\\134 /mnt/c 9p rw,dirsync,aname=drvfs;path=C:\\;uid=1000 0 0
server:/home /home nfs4 rw 0 0
/dev/sdd /srv/my\\040disk ext4 rw 0 0
"""


class Computer:
    """One with only the given programs, and a copy of the repository. Nothing is wrong with it."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.repository = folder / "course"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        self.has("curl", "#!/bin/sh\n")
        self.has("python3", PYTHON, "3.12")
        for name in ("scripts", "requirements"):
            shutil.copytree(ROOT / name, self.repository / name)
        shutil.copy(ROOT / "Makefile", self.repository)
        self.settings = {"PORT": str(free_port())}

    def has(self, name: str, program: str, version: str = "") -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(program.replace("VERSION", version))
        path.chmod(0o755)

    def lacks(self, name: str) -> None:
        (self.bin / name).unlink()

    def has_venv(self, *packages: str, made_in: str = "") -> None:
        """One that holds the medium lock, but for packages in other versions."""
        lock = (self.repository / "requirements/medium.txt").read_text()
        venv = self.repository / ".venv"
        site = venv / "lib/python3.12/site-packages"
        site.mkdir(parents=True)
        (venv / "bin").mkdir()
        shutil.copy(self.bin / "python3", venv / "bin/python")
        (venv / "installed").write_text(f"{made_in or self.repository}\n{lock}")
        held = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
        held |= dict(package.split("==") for package in packages)
        for name, version in held.items():
            (site / f"{name.replace('-', '_')}-{version}.dist-info").mkdir()

    def examined(self, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "doctor"],
            cwd=self.repository,
            env={"PATH": str(self.bin), "HOME": str(self.bin), **self.settings, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    def healthy(self, *words: str, **env: str) -> None:
        done = self.examined(**env)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        assert "WRONG" not in done.stdout
        assert done.stdout.endswith("Nothing is in the way. Next: make medium\n")
        assert_said(done.stdout, *words)

    def sick(self, what: str, *words: str, **env: str) -> None:
        """The one thing that is wrong is this, and what is said has a way to mend it."""
        done = self.examined(**env)
        assert done.returncode != 0, done.stdout
        assert re.findall(r"^WRONG  (\S+)", done.stdout, re.MULTILINE) == [what], done.stdout
        assert "to mend it: " in done.stdout
        assert "Traceback" not in done.stdout + done.stderr
        assert_said(done.stdout, *words)


def assert_said(text: str, *words: str) -> None:
    joined = " ".join(text.split())
    assert [word for word in words if word not in joined] == [], text


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    return Computer(tmp_path)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def test_a_healthy_computer(computer: Computer) -> None:
    """Everything is looked at, one line each, without colour, and nothing is changed."""
    before = sorted(computer.repository.rglob("*"))
    computer.healthy("python3 is 3.12", ".venv not there yet", "GNU Make")
    out = computer.examined().stdout
    assert "\x1b" not in out
    assert all(len(line) <= 100 for line in out.splitlines())
    assert sorted(computer.repository.rglob("*")) == before


def test_no_python(computer: Computer) -> None:
    """Without any Python, plain sh says so."""
    computer.lacks("python3")
    computer.sick("Python", "install Python 3.11 or newer")


@pytest.mark.parametrize("version", ["3.8", "3.10"])
def test_old_python(computer: Computer, version: str) -> None:
    """One that is too old looks at everything, itself included."""
    computer.has("python3", PYTHON, version)
    computer.sick("Python", f"python3 is Python {version}", "needs 3.11", "GNU Make")


def test_newer_python_beside_an_old_one(computer: Computer) -> None:
    """The next in the order of setup.sh counts."""
    computer.has("python3", PYTHON, "3.9")
    computer.has("python3.13", PYTHON, "3.13")
    computer.healthy("python3.13 is 3.13")


def test_order_is_that_of_setup() -> None:
    """doctor.py and doctor.sh look for Pythons where setup.sh does."""
    for script in ("scripts/setup.sh", "scripts/doctor.sh"):
        assert " ".join(doctor.CANDIDATES) in (ROOT / script).read_text(), script


def test_python_that_was_asked_for(computer: Computer) -> None:
    """PYTHON= that is too old, or not there, is in the way although others would do."""
    computer.has("python3.9", PYTHON, "3.9")
    computer.sick("Python", "PYTHON=python3.9 is no Python 3.11", PYTHON="python3.9")
    computer.sick("Python", "leave PYTHON out", PYTHON="python3.99")


def test_python_without_venv(computer: Computer) -> None:
    """Debian's Python without python3-venv; with uv it is none of our business."""
    (computer.bin / "no-ensurepip").touch()
    computer.sick("Python", "came without venv", "sudo apt install python3.12-venv")
    computer.has("uv", "#!/bin/sh\n")
    computer.healthy("python3 is 3.12")


def test_old_make(computer: Computer) -> None:
    """A make that is not GNU's, or too old, or not there: then the script is run by itself."""
    real = shutil.which("make")
    for said, words in (("GNU Make 3.80", "too old"), ("bmake", "another make than GNU's")):
        program = (
            f'#!/bin/sh\n[ "$1" != --version ] || {{ echo "{said}"; exit; }}\nexec {real} "$@"\n'
        )
        computer.has("make", program)
        computer.sick("make", words, "install GNU Make")
    computer.lacks("make")
    done = subprocess.run(
        ["sh", "scripts/doctor.sh"],
        cwd=computer.repository,
        env={"PATH": str(computer.bin), **computer.settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert_said(done.stdout, "WRONG make not found")


def test_no_curl_is_only_a_note(computer: Computer) -> None:
    """The service runs without it."""
    computer.lacks("curl")
    computer.healthy("note curl not found")


def test_taken_port(computer: Computer, taken: int) -> None:
    """Another program at the service's port, set by PORT= or in .env, or nothing else there."""
    computer.sick("port", f"{taken} is taken", f"make medium PORT={taken + 1}", PORT=str(taken))
    (computer.repository / ".env").write_text(f"# mine\nPORT = '{taken}'\n")
    computer.sick("port", f"{taken} is taken", PORT="")
    computer.healthy()
    computer.sick("port", "PORT=eight is no port", PORT="eight")


def test_port_taken_at_the_other_localhost(computer: Computer) -> None:
    """A program at ::1 would answer in the service's place."""
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this computer has no ::1")
    with listener:
        number = listener.getsockname()[1]
        computer.sick("port", "free at 127.0.0.1, but taken at ::1", PORT=str(number))


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"http_proxy": "http://proxy:1"}, "http_proxy is set"),
        ({"ALL_PROXY": "socks5://proxy:1"}, "ALL_PROXY is set"),
        ({"HTTP_PROXY": "http://proxy:1", "NO_PROXY": "localhost,.example"}, "for 127.0.0.1"),
    ],
)
def test_proxy_that_is_asked_for_localhost(
    computer: Computer, env: dict[str, str], words: str
) -> None:
    """A proxy without exceptions for this computer breaks every curl of the pages."""
    computer.sick("proxy", words, "export no_proxy=localhost,127.0.0.1,::1", **env)


def test_proxy_that_is_not(computer: Computer) -> None:
    """With the exceptions, or for https alone, it is in nobody's way."""
    computer.healthy(HTTP_PROXY="http://proxy:1", no_proxy="127.0.0.1, localhost")
    computer.healthy(http_proxy="http://proxy:1", NO_PROXY="*")
    computer.healthy(https_proxy="http://proxy:1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("PORT=9000".encode("utf-16"), "UTF-16, as PowerShell writes it"),
        ("PORT=9000".encode("utf-16-le"), "zero bytes"),
        ("# Schlüssel\n".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_settings_in_another_encoding(computer: Computer, text: bytes, words: str) -> None:
    """A .env that the services would refuse, or read as nonsense."""
    (computer.repository / ".env").write_bytes(text)
    computer.sick(".env", words, "save it as UTF-8", PORT=str(free_port()))


def test_settings_in_utf_8(computer: Computer) -> None:
    """Also with the mark that Windows puts before it."""
    (computer.repository / ".env").write_bytes("# Schlüssel\n".encode("utf-8-sig"))
    computer.healthy(".env is UTF-8")


def test_venv_that_fits(computer: Computer) -> None:
    """With it, a Python that is too old is a note: nothing more has to be installed."""
    computer.has_venv()
    computer.healthy(
        "holds requirements/medium.txt; any target but make medium installs the rest, once",
        "ok Python python3 is 3.12",
    )
    computer.has("python3", PYTHON, "3.9")
    computer.healthy("note Python python3 is Python 3.9", ".venv has one")


def test_venv_that_was_changed_by_hand(computer: Computer) -> None:
    """pip in .venv leaves a receipt that is not true any more."""
    computer.has_venv("fastapi==0.1.0")
    computer.sick(".venv", "changed by hand: fastapi is 0.1.0", "make clean")


def test_venv_that_lost_a_package(computer: Computer) -> None:
    """pip uninstall does the same."""
    computer.has_venv()
    next((computer.repository / ".venv").glob("lib/*/*/starlette-*")).rmdir()
    computer.sick(".venv", "starlette is missing")


def test_venv_that_the_next_make_mends(computer: Computer) -> None:
    """One of another folder, of an older lock, or half made is no problem, and a note says so."""
    computer.has_venv(made_in="/somewhere/else")
    computer.healthy("note .venv was made in /somewhere/else; the next make replaces it")
    receipt = computer.repository / ".venv/installed"
    receipt.write_text(f"{computer.repository}\nfastapi==0.1.0\n")
    computer.healthy("note .venv holds older packages")
    receipt.unlink()
    computer.healthy("note .venv was not made by this course, or not finished")


def test_windows_and_its_subsystem() -> None:
    """Windows itself and WSL 1 are in the way, WSL 2 is not."""
    assert doctor.system("win32", "").grade == doctor.WRONG
    assert "--set-version" in doctor.system("linux", WSL_1).mend
    assert doctor.system("linux", WSL_2) == (doctor.OK, "system", "Linux, in WSL 2", "")
    assert doctor.system("darwin", "").grade == doctor.OK


def test_folder_on_a_windows_disk(tmp_path: Path) -> None:
    """Below /mnt in WSL it is in the way; a folder on a network is a note."""
    kinds = {
        path: doctor.kind_of_file_system(Path(path), MOUNTS)
        for path in ("/mnt/c/Users/me/course", "/home/me", "/srv/my disk/x", "/mnt/cd", "/opt")
    }
    assert list(kinds.values()) == ["9p", "nfs4", "ext4", "ext4", "ext4"]
    on_windows = f"C: {tmp_path} 9p rw 0 0\n"
    found = doctor.folder(tmp_path, on_windows, WSL_2)
    assert (found.grade, found.what) == (doctor.WRONG, "folder")
    assert f"cp -r '{tmp_path}'" in found.mend
    assert doctor.folder(tmp_path, f"server: {tmp_path} nfs rw 0 0\n", "").grade == doctor.NOTE
    assert doctor.folder(tmp_path, MOUNTS, WSL_2).grade == doctor.OK


def test_folder_with_a_colon(computer: Computer) -> None:
    """venv refuses such a folder, and says it less kindly."""
    computer.repository = computer.repository.rename(computer.repository.with_name("a:b"))
    computer.sick("folder", "has a colon in it", "rename the folder")


def test_what_cannot_be_written_to(computer: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of somebody else's, and a .venv that sudo made."""
    computer.has_venv()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = doctor.folder(computer.repository, MOUNTS, "")
    assert (found.grade, "cannot be written to" in found.said) == (doctor.WRONG, True)
    found = doctor.venv(computer.repository)
    assert (found.grade, found.mend) == (doctor.WRONG, "sudo rm -rf .venv")


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little room for .venv, or in the temporary folder; with a .venv there is need of less."""

    def grades(free_mb: int) -> list[str]:
        monkeypatch.setattr(
            shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, free_mb * 2**20)
        )
        return [found.grade for found in doctor.disk(tmp_path, tmp_path / "scratch")]

    assert grades(2000) == [doctor.OK, doctor.OK]
    assert grades(500) == [doctor.WRONG, doctor.OK]
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/installed").touch()
    assert grades(500) == [doctor.OK, doctor.OK]
    assert grades(50) == [doctor.WRONG, doctor.WRONG]


def test_walls_for_grading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than the strongest walls is a note that says why and what would help."""
    assert doctor.isolation("darwin").grade == doctor.NOTE
    monkeypatch.setattr(doctor, "why_no_namespaces", lambda: "unshare: Operation not permitted")
    found = doctor.isolation("linux")
    assert (found.grade, "unshare: Operation not permitted" in found.said) == (doctor.NOTE, True)
    assert found.mend


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux'")
def test_walls_are_those_that_the_grader_finds() -> None:
    """The doctor's quick look comes to what the grader comes to by building them."""
    from grader.runner import opened  # noqa: PLC0415 - takes a second, and only this test needs it

    with opened() as grader:
        grader.ready()
        assert (doctor.isolation("linux").grade == doctor.OK) is (grader.tier == 1)


def test_runs_with_an_old_python() -> None:
    """Nothing in it is newer than Python 3.8; ruff checks the same of its calls' syntax."""
    ast.parse((ROOT / "scripts/doctor.py").read_text(), feature_version=(3, 8))
