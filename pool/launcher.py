"""Runs between spawn and exec of a worker: asks the kernel to kill the worker when the service dies.

Started as `python -I -S launcher.py PARENT_PID PROGRAM ARGS...`. A program of its own because the request has to be
made in the child, and code in the child before exec would force a full fork of the service: tens of milliseconds of
blocked loop in a large process. Where the kernel has no such request (not Linux) the worker still ends with its stdin.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask, make sure that it was not too late, and become the worker."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)
    os.execv(program, sys.argv[2:])  # noqa: S606 - the operator's own binary, no shell


if __name__ == "__main__":
    main()
