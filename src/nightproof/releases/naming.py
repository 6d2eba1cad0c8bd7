"""Program: print the name of the service that a folder declares. Runs user code, so in a process of its own.

Started by `steer.examine` as `python -m nightproof.releases.naming FOLDER`. Loads no model.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from nightproof.base.errors import DeclarationError
from nightproof.declare.folder import load_service
from nightproof.storage import proc

_MEMORY_BYTES = 4 * 1024**3


def main() -> None:
    """Import the folder's service.py and print the name, or on standard error why not."""
    proc.die_with(os.getppid())
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    answer = os.dup(1)
    os.dup2(2, 1)  # what service.py prints is not the answer
    try:
        name = load_service(Path(sys.argv[1])).name
    except DeclarationError as error:
        sys.stderr.write(error.text)
        sys.stderr.flush()
        os._exit(1)
    os.write(answer, f"{name}\n".encode())
    os._exit(0)  # what service.py may have started does not keep us


if __name__ == "__main__":
    main()
