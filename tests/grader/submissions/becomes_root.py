"""Asks for another user, for capabilities and for a file system."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
for attempt in (os.setuid, os.setgid):
    try:
        attempt(0)
    except OSError:
        continue
    print("found: became", os.getuid(), os.getgid())
for done in (
    libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
    libc.mount(b"none", b"/course", b"tmpfs", 0, None),
    libc.chroot(b"/tmp"),
    libc.sethostname(b"x", 1),
):
    if done == 0:
        print("found: a privilege")
