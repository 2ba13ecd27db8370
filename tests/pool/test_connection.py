from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.protocol.connection import MAX_IN_FLIGHT, REMEMBERED, Answered, Connection, Expired, Refused, TooManyInFlight
from pool.protocol.framing import Oversized
from pool.protocol.messages import Garbage, Notification, Request, RpcError, encode


def asked(connection: Connection[str], token: str, deadline_at: float = 10.0) -> int:
    """Make a request; its id."""
    frame = json.loads(connection.request(f"do/{token}", {}, token, deadline_at))
    assert isinstance(frame["id"], int)
    return frame["id"]


def reply(request_id: int | str, result: Any = None) -> bytes:
    return encode({"id": request_id, "result": result})


def refusal(request_id: int, code: int = -1) -> bytes:
    return encode({"id": request_id, "error": {"code": code, "message": "no"}})


def test_a_request_is_a_line_with_a_new_number() -> None:
    connection: Connection[str] = Connection()
    line = connection.request("thread/start", {"model": "m"}, "token", 10.0)
    assert json.loads(line) == {"id": 1, "method": "thread/start", "params": {"model": "m"}}
    assert asked(connection, "b") == 2
    assert connection.in_flight == 2


def test_answers_find_their_tokens_in_any_order() -> None:
    connection: Connection[str] = Connection()
    first, second = asked(connection, "first"), asked(connection, "second")
    (answer, refused) = connection.receive(reply(second, {"x": 1}) + refusal(first, -32001))
    assert isinstance(answer, Answered)
    assert (answer.token, bytes(answer.result), answer.late) == ("second", b'{"x":1}', False)
    assert refused == Refused("first", RpcError(-32001, "no"), late=False)
    assert connection.in_flight == 0


def test_the_second_answer_to_one_request_is_counted_and_dropped() -> None:
    connection: Connection[str] = Connection()
    number = asked(connection, "a")
    assert len(connection.receive(reply(number) + reply(number) + refusal(number))) == 1
    assert connection.counters["unmatched"] == 2


@pytest.mark.parametrize("request_id", [2, 0, -1, "1", 10**30])
def test_an_answer_to_nothing_we_asked_is_counted_and_dropped(request_id: int | str) -> None:
    connection: Connection[str] = Connection()
    asked(connection, "a")
    assert connection.receive(reply(request_id)) == []
    assert connection.counters["unmatched"] == 1
    assert connection.in_flight == 1


def test_a_request_expires_at_its_deadline_and_not_before() -> None:
    connection: Connection[str] = Connection()
    asked(connection, "short", 5.0)
    asked(connection, "long", 6.0)
    assert connection.expire(4.999) == []
    assert connection.expire(5.0) == [Expired("short", "do/short")]
    assert connection.expire(5.0) == []
    assert connection.in_flight == 1


def test_a_postponement_gives_every_request_so_much_more_and_none_that_has_expired() -> None:
    connection: Connection[str] = Connection()
    gone = asked(connection, "gone", 1.0)
    connection.expire(1.0)
    asked(connection, "short", 5.0)
    asked(connection, "long", 6.0)
    connection.postpone(3600.0)
    asked(connection, "new", 3605.5)
    assert connection.expire(3604.999) == []
    assert [expired.token for expired in connection.expire(3605.0)] == ["short"]
    assert [expired.token for expired in connection.expire(3606.0)] == ["long", "new"]
    (late,) = connection.receive(reply(gone))
    assert isinstance(late, Answered)
    assert late.late


def test_an_answer_after_the_expiry_is_marked_late_once() -> None:
    connection: Connection[str] = Connection()
    number, other = asked(connection, "a"), asked(connection, "b")
    connection.expire(10.0)
    first, second = connection.receive(reply(number) + refusal(other))
    assert isinstance(first, Answered)
    assert first.late
    assert second == Refused("b", RpcError(-1, "no"), late=True)
    assert connection.receive(reply(number)) == []
    assert (connection.counters["late"], connection.counters["unmatched"]) == (2, 1)


def test_only_the_youngest_expired_requests_are_remembered() -> None:
    connection: Connection[str] = Connection()
    numbers = []
    for index in range(REMEMBERED + 10):
        numbers.append(asked(connection, str(index), float(index)))
        connection.expire(float(index))
    known = [number for number in numbers if connection.receive(reply(number))]
    assert known == numbers[10:]
    assert connection.counters["late"] == REMEMBERED
    assert connection.counters["unmatched"] == 10


def test_one_request_too_many_is_our_bug_until_one_is_answered_or_expires() -> None:
    connection: Connection[str] = Connection()
    numbers = [asked(connection, str(index), 10.0 + index) for index in range(MAX_IN_FLIGHT)]
    with pytest.raises(TooManyInFlight, match="one/more"):
        connection.request("one/more", {}, "x", 1.0)
    connection.receive(reply(numbers[5]))
    asked(connection, "after an answer", 99.0)
    with pytest.raises(TooManyInFlight):
        asked(connection, "x")
    connection.expire(10.0)
    asked(connection, "after an expiry", 99.0)
    assert connection.in_flight == MAX_IN_FLIGHT


def test_everything_else_is_passed_on_in_order_and_counted() -> None:
    connection: Connection[str] = Connection(max_line_bytes=64)
    number = asked(connection, "a")
    got = connection.receive(
        b'{"method":"n","params":1}\n'
        + b"garbage\n"
        + reply(number)
        + b"x" * 65
        + b"\n"
        + b'{"method":"r","id":0,"params":2}\n'
        + b'{"method":"unfinished'
    )
    assert [type(message) for message in got] == [Notification, Garbage, Answered, Oversized, Request]
    assert connection.counters == {"frames": 5, "late": 0, "unmatched": 0, "garbage": 1, "oversized": 1}


@given(st.lists(st.tuples(st.sampled_from(["ask", "answer", "expire"]), st.integers(0, 40)), max_size=80))
def test_every_token_comes_back_exactly_once_on_time_or_as_expired(moves: list[tuple[str, int]]) -> None:
    connection: Connection[str] = Connection()
    now, deadlines, fates = 0.0, dict[int, float](), dict[str, list[str]]()
    for move, value in moves:
        if move == "ask" and connection.in_flight < MAX_IN_FLIGHT:
            number = asked(connection, str(len(deadlines) + 1), now + value)
            deadlines[number] = now + value
            fates[str(number)] = []
        elif move == "answer":
            for answer in connection.receive(reply(value)):
                assert isinstance(answer, Answered)
                fates[answer.token].append("late" if answer.late else "answered")
        elif move == "expire":
            now += value
            for expired in connection.expire(now):
                assert isinstance(expired, Expired)
                assert deadlines[int(expired.token)] <= now
                fates[expired.token].append("expired")
    now += 100
    for expired in connection.expire(now):
        fates[expired.token].append("expired")
    assert connection.in_flight == 0
    assert all(fate in (["answered"], ["expired"], ["expired", "late"]) for fate in fates.values())
