"""The program of the log's writer: `python -m nightproof.steer.log_program FD PARENT_PID`.

Started by a server's `Archive`. Takes settings and master key from its socket, opens the log, and writes until
the socket closes. It ends with the server, even when that is killed, and holds the lock of the state folder
until then; it neither listens nor runs anybody's code.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable

from nightproof.audit.links import SocketChannel
from nightproof.audit.messages import ChannelClosed, FromWriter, Open
from nightproof.audit.vault import Vault
from nightproof.audit.writing import OpenLog, write_until_closed
from nightproof.base.clock import utc_us
from nightproof.settings.carry import read_settings
from nightproof.steer.archive import open_log, open_vault_store
from nightproof.storage import proc
from nightproof.storage.statefolder import StateFolder


def main() -> None:
    """Take over the socket named on the command line and serve it."""
    descriptor, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    proc.die_with(parent_pid)
    proc.give_way()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server says when to end, and closes the socket
    channel = SocketChannel(socket.socket(fileno=descriptor))
    try:
        opening = channel.receive(None)
        if isinstance(opening, Open):
            _write(channel, opening)
    except ChannelClosed:
        pass  # the server is gone
    sys.stdout.flush()
    os._exit(0)  # nothing is left to be done, and nothing may hold this process


def _write(channel: SocketChannel, opening: Open) -> None:
    settings = read_settings(opening.settings)

    def open_here(tell: Callable[[FromWriter], None]) -> OpenLog:
        state = StateFolder(settings.state.absolute())
        vault_store = open_vault_store(settings, state)
        vault = Vault(vault_store, opening.master, now_us=utc_us())
        opened = open_log(settings, state, vault, vault_store, tell)
        gc.collect()
        gc.freeze()  # what is loaded now stays: the collector need not walk it again
        return opened

    write_until_closed(channel, open_here, settings.ledger)


if __name__ == "__main__":
    main()
