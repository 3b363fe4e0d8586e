"""Makes a user namespace, in which it would be root again."""

import ctypes
import os

if not os.fork():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000) == 0:
        print("found: a user namespace of my own", flush=True)
    os._exit(0)
os.wait()
