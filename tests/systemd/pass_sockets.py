"""Runs a program with listening sockets, as a service manager passes them.

usage: pass_sockets.py KIND,.. PROGRAM [ARGUMENT]..

A kind is tcp (a listening socket), idle (one that does not listen), file, or closed. The program keeps the
process number, so signals reach it. The addresses are printed first.
"""

import os
import socket
import sys


def descriptor(kind):
    if kind == "file":
        return os.open("/dev/null", os.O_RDONLY)
    passed = socket.socket()
    passed.bind(("127.0.0.1", 0))
    if kind == "tcp":
        passed.listen(128)
    print("%s:%d" % passed.getsockname(), flush=True)
    return passed.detach()


def main():
    kinds = sys.argv[1].split(",")
    # First away from where they are to be, so that none is overwritten.
    high = [os.dup2(descriptor(kind), 100 + at) for at, kind in enumerate(kinds) if kind != "closed"]
    os.closerange(3, 100)
    for at, passed in enumerate(high):
        os.dup2(passed, 3 + at, inheritable=True)
        os.close(passed)
    names = ":".join("web" if kind == "tcp" else kind for kind in kinds)
    os.environ.update(LISTEN_FDS=str(len(kinds)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
    os.execv(sys.argv[2], sys.argv[2:])


main()
