"""A request that comes while the server starts is told so, and not that the log cannot be written."""

from __future__ import annotations

import asyncio

from nightproof.base.values import Reply
from nightproof.pipeline.serve import serve
from nightproof.pipeline.story import Arrival
from nightproof.testing import MemoryLedgerStore, ScriptedEngine, house_of
from tests.cancel.test_serve_cancel import described


def test_who_asks_before_the_log_is_open_is_told_that_the_server_starts():
    """Else each restart under load would page about an audit log that is well."""

    async def ask() -> tuple[Reply, dict[tuple[str, str, str], int]]:
        house = house_of(ScriptedEngine(described(), lambda job: None), MemoryLedgerStore())
        house.starting, house.services = True, {}

        async def read_body(most_bytes: int) -> bytes:
            return b"{}"

        reply = await serve(Arrival(house.ids.draw(), "loans", "native", "any token", read_body, None), house)
        return reply, dict(house.summaries)

    reply, counted = asyncio.run(ask())

    assert (reply.failure, reply.ending) == ("model_unavailable", "refused")
    assert counted == {("model_unavailable", "", "test"): 1}
