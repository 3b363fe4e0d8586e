"""The file system that a submission sees: Python, the course's files, a private /tmp."""

import os
import sys
from pathlib import Path

from grader.sandbox.kernel import (
    CLONE_NEWNS,
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    bind_read_only,
    change_root,
    mount,
    unshare,
)

COURSE = Path("/course")
DATA = Path("/data")
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("null", "zero", "random", "urandom")
FILES = {
    "etc/passwd": "nobody:x:65534:65534:nobody:/tmp:/bin/false\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "hosts: files\npasswd: files\n",
}


def python_folders() -> list[Path]:
    """Where this Python and its packages live; nothing of the course is there."""
    folders = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), Path(sys.prefix)}
    system = [Path(folder) for folder in SYSTEM]
    return sorted(f for f in folders if not any(f.is_relative_to(s) for s in system))


def enter(scaffold: Path, workspace: Path, writable: str, size: int) -> None:
    """Leave the machine's files behind. `scaffold` is an empty folder to build upon.

    The last step is a chroot although the root is new already: who lives in a chroot cannot make
    user namespaces, in which he would be root again.
    """
    unshare(CLONE_NEWNS)
    mount("none", Path("/"), None, MS_REC | MS_PRIVATE)
    mount("tmpfs", scaffold, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    root = scaffold / "root"
    root.mkdir()
    temporary = _make(root / "tmp", is_folder=True)  # first: packages may live below /tmp
    options = f"size={size},mode=1777,nr_inodes=20000"
    mount("tmpfs", temporary, "tmpfs", MS_NOSUID | MS_NODEV, options)
    for folder in [Path(name) for name in SYSTEM] + python_folders():
        _show(folder, root)
    _show(workspace, root, COURSE)
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    for device in DEVICES:
        place = _make(root / "dev" / device, is_folder=False)
        mount(f"/dev/{device}", place, None, MS_BIND)
    (root / "dev/shm").symlink_to("/tmp")  # noqa: S108 - the private one
    if writable:
        mount(writable, _make(root / DATA.relative_to("/"), is_folder=True), None, MS_BIND)
    change_root(scaffold)
    os.chroot("/root")
    os.chdir("/")


def _show(source: Path, root: Path, as_: Path | None = None) -> None:
    target = root / (as_ or source).relative_to("/")
    if source.is_symlink() and as_ is None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.readlink())
    elif as_ is not None or source.exists():
        bind_read_only(source, _make(target, is_folder=as_ is not None or source.is_dir()))


def _make(place: Path, *, is_folder: bool) -> Path:
    (place if is_folder else place.parent).mkdir(parents=True, exist_ok=True)
    if not is_folder:
        place.touch()
    return place
