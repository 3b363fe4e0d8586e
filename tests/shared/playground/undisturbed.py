"""`python undisturbed.py PROGRAM ARGUMENTS...`: run Chromium so that it hears of no network change.

When an interface comes or goes, as with each container that starts on the same computer, Chromium
ends every connection it has, those to 127.0.0.1 too (ERR_NETWORK_CHANGED). It hears of that from
the kernel, over a netlink socket. Where it gets none, it takes the network for what it is. So
a seccomp filter refuses that one kind of socket. On Linux alone; elsewhere nothing is changed.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

SOCKET = {"x86_64": 41, "aarch64": 198}
"""The number of the system call, by machine."""

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: a word, to a constant, a constant
NUMBER, FIRST_ARGUMENT = 0, 16  # where struct seccomp_data has them
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    """`struct sock_fprog`: how many instructions, and where."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def refuse_netlink(number: int) -> None:
    code = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (LOAD, 0, 0, NUMBER),
            (JUMP_IF_EQUAL, 0, 3, number),
            (LOAD, 0, 0, FIRST_ARGUMENT),
            (JUMP_IF_EQUAL, 0, 1, socket.AF_NETLINK),
            (RETURN, 0, 0, REFUSE | errno.EAFNOSUPPORT),
            (RETURN, 0, 0, ALLOW),
        )
    )
    kept = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    for words in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*words):
            raise OSError(ctypes.get_errno(), "prctl: the filter could not be set")


if __name__ == "__main__":
    if sys.platform == "linux" and platform.machine() in SOCKET:
        refuse_netlink(SOCKET[platform.machine()])
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - the browser that was found
