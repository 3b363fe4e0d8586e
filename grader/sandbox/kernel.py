"""What the sandbox asks of the Linux kernel and Python 3.11 has no words for, through ctypes."""

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38

SYS_MOUNT_SETATTR = 442  # the same number on every architecture
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def call(name: str, *arguments: int | bytes | None) -> int:
    """A C function by its name; OSError if it fails."""
    result: int = getattr(libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    call("unshare", flags)


def prctl(option: int, value: int = 0) -> None:
    words = (ctypes.c_ulong(word) for word in (value, 0, 0, 0))
    call("prctl", option, *words)  # type: ignore[arg-type]


def mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [word and word.encode() for word in (source, str(target), kind)]
    call("mount", *words, ctypes.c_ulong(flags), data and data.encode())  # type: ignore[arg-type]


def bind_read_only(source: Path, target: Path) -> None:
    """`source`, with all that is mounted below it, read-only at `target`."""
    mount(str(source), target, None, MS_BIND | MS_REC)
    change = struct.pack("QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    at_cwd, size = ctypes.c_int(-100), ctypes.c_size_t(len(change))
    path, number = os.fsencode(target), ctypes.c_long(SYS_MOUNT_SETATTR)
    call("syscall", number, at_cwd, path, AT_RECURSIVE, change, size)  # type: ignore[arg-type]


def change_root(new_root: Path) -> None:
    """Make `new_root`, which is a mount, the root, and let go of the old one."""
    os.chdir(new_root)
    call("pivot_root", b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def map_own_user(uid: int, gid: int) -> None:
    """In a new user namespace: keep one's own numbers, and lose everybody else's."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def raise_loopback() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def drop_bounding_set() -> None:
    """No program that is started from here on can gain a capability."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # past the last one that this kernel knows


def drop_capabilities() -> None:
    version_3, this_process = 0x20080522, 0
    call("capset", struct.pack("Ii", version_3, this_process), struct.pack("6I", *[0] * 6))
