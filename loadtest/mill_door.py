"""What a bench runs in the place of the CLI: it hands its stdin and stdout to the mill, and ends when that hangs up.

Started as `python -I -S mill_door.py SOCKET`. A hundred of these cost nothing while the mill works.
"""

import socket
import sys


def main() -> None:
    """Hand both over, and wait."""
    with socket.socket(socket.AF_UNIX) as mill:
        mill.connect(sys.argv[1])
        socket.send_fds(mill, [b"!"], [0, 1])
        mill.recv(1)


if __name__ == "__main__":
    main()
