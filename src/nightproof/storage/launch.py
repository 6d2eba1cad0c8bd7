"""Bind this process to the one that started it, and become another program: `python -m nightproof.storage.launch`.

For programs that are not ours and could not do it themselves. The kernel keeps the bond over the exec.
"""

from __future__ import annotations

import os
import sys

from nightproof.storage.proc import die_with

NO_PROGRAM = 127


def main(parent_pid: str, *command: str) -> None:
    """Become the command; end with 127 where there is no such program."""
    die_with(int(parent_pid))
    try:
        os.execvp(command[0], command)  # noqa: S606 - a list, and no shell is wanted
    except OSError:
        os._exit(NO_PROGRAM)


if __name__ == "__main__":
    main(*sys.argv[1:])
