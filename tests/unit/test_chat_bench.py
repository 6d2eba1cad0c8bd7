"""What the chat benchmark says is what it saw: goals, slopes and numbered questions."""

from benchmarks.chat import questions, streams
from benchmarks.chat.report import chat_goals
from benchmarks.chat.run import ChatFindings, ChatRow
from benchmarks.load import Comparison, Point


def point(good_per_s: float, tree_us: float = 100.0) -> Point:
    return Point(
        connections=64, seconds=1.0, good_per_s=good_per_s, refused_per_s=0.0, socket_errors=0, timeouts=0, p50_ms=1.0,
        p99_ms=2.0, max_ms=3.0, server_us=10.0, tree_us=tree_us, others_cores=0.0,
    )  # fmt: skip


def row(title: str, good_per_s: float, *, bare_per_s: float) -> ChatRow:
    bare = point(bare_per_s)
    return ChatRow(title=title, points={64: Comparison(point=point(good_per_s), before=bare, after=bare)})


def test_a_gateway_is_held_against_the_bare_upstream_next_to_it():
    """A minute in which all was half as fast changes no verdict."""
    found = ChatFindings(
        rows={
            "nightproof": row("Nightproof", 1_000, bare_per_s=10_000),
            "portkey": row("Portkey", 250, bare_per_s=5_000),
            "litellm": ChatRow(title="LiteLLM", not_run="it could not be installed"),
        }
    )

    goals = {text: (told, is_kept) for text, told, is_kept in chat_goals(found)}

    assert goals["chats, 64 connections: at least 3× Portkey"][1] is False
    assert goals["chats, 64 connections: at least 30× LiteLLM"] == ("it could not be installed", None)


def test_no_two_requests_are_the_same():
    bodies = questions.bodies(model="chat")

    asked = {questions.numbered(bodies[number % len(bodies)], number) for number in range(200)}

    assert len(asked) == 200
    assert all(questions.NUMBER.encode() in body for body in bodies)


def test_the_slope_of_a_memory_that_grows_is_found():
    assert round(streams.slope([(at / 10, 5e6 + 2_000 * at / 10) for at in range(50)])) == 2_000
    assert streams.slope([(0.0, 1.0), (1.0, 2.0)]) == 0.0
