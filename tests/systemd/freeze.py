"""Freezes threads of a process, as if each were stuck in one step, until its own standard input ends.

usage: freeze.py THREAD_ID..

A debugger's calls (ptrace): the other threads of the process run on. Prints a line once all are frozen.
"""

import ctypes
import os
import sys

SEIZE, INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000


def main():
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    for thread in map(int, sys.argv[1:]):
        for call in SEIZE, INTERRUPT:
            if ptrace(call, thread, None, None) == -1:
                sys.exit("ptrace: " + os.strerror(ctypes.get_errno()))
        os.waitpid(thread, WALL)
    print("frozen", flush=True)
    # The end of this process lets the threads run again.
    sys.stdin.read()


main()
