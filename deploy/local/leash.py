"""Becomes another program that cannot outlive its parent.

`leash.py <parent pid> <signal> <uid> <gid> <program> [argument …]`. Started as a file, with nothing but the
standard library, so that neither a fork hook nor a package import stands between parent and program.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
KEEP_IDENTITY = -1


def _become() -> None:
    parent, death_signal, uid, gid = (int(argument) for argument in sys.argv[1:5])
    if uid != KEEP_IDENTITY:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After the change of identity, which would clear it.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        sys.exit("the parent is gone already")
    os.execv(sys.argv[5], sys.argv[5:])  # noqa: S606


if __name__ == "__main__":
    _become()
