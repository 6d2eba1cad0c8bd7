"""Who begins tasks: the one way for them, and the few places that see to the end of theirs themselves."""

from __future__ import annotations

import re
from pathlib import Path

import nightproof

SOURCE = Path(nightproof.__file__).parent
BEGINS = re.compile(r"\b(?:create_task|ensure_future)\(")
SEEN_TO = {
    "steer/tasks.py": "the one way: told in the log, in health, and begun again where it is to go on",
    "gateway/receiving.py": "an exchange answers its own faults",
    "gateway/server.py": "start and stop are awaited",
    "pipeline/upstreams.py": "both of two tries are awaited or dropped by the call",
    "pipeline/record.py": "the record is awaited, or counted by a callback where its caller left",
    "pipeline/chat_typed.py": "a task group",
    "audit/links.py": "a writer that cannot be started is told to the ledger",
    "workers/upstream/http2.py": "closing a stream: nobody is left to be told",
    "workers/upstream/command.py": "started again within its budget; upstream_command_failed",
    "workers/pool.py": "a slot that does not load is ended after load_timeout, and replaced",
    "watch/history.py": "never raises; health says why windows wait",
    "watch/drift/watcher.py": "a border around each round, logged",
    "drills/load.py": "a drill's own load, in the drill's process",
}


def test_a_task_is_begun_where_somebody_sees_to_its_end():
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if BEGINS.search(path.read_text(encoding="utf-8"))
    }

    assert found == SEEN_TO.keys(), "begin it by steer.tasks, or say here who sees to its end"
