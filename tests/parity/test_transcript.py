"""Transcripts are the same each time, and what differs can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import transcript
from tests.parity.transcript import Answered, Ids, answered_text, difference, model_text

EVENT = (
    'data: {{"id":"chatcmpl-{id}","object":"chat.completion.chunk","created":{created},"model":"m",'
    '"system_fingerprint":"fp_codex_{version}","choices":[{{"index":{index},"delta":{{"content":"{text}"}},'
    '"finish_reason":null}}]}}\n\n'
)


def event(text: str, *, index: int = 0, id: str = "0" * 24, created: int = 1795148182, version: str = "1.2.3") -> str:  # noqa: A002
    return EVENT.format(id=id, created=created, version=version, index=index, text=text)


def stream(body: str, **headers: str) -> Answered:
    return Answered(200, {"Content-Type": "text/event-stream"} | headers, body.encode())


def told(answered: Answered, *, keeps_alive: bool = False) -> str:
    return answered_text(answered, version="1.2.3", keeps_alive=keeps_alive)


def test_what_differs_each_time_is_not_told() -> None:
    one = stream(event("a"), **{"X-Request-ID": "req_1", "Date": "today", "Retry-After": "1", "Vary": "Origin"})
    other = stream(
        event("a", id="f" * 24, created=1795149999),
        **{"x-request-id": "req_2", "Retry-After": "2", "Access-Control-Allow-Origin": "*"},
    )
    assert told(one) == told(other)


def test_what_matters_is_told() -> None:
    plain = told(stream(event("a")))
    assert told(stream(event("b"))) != plain
    assert told(stream(event("a") + event("a"))) != plain
    assert told(stream(event("a"), **{"x-codex-usage": "estimated"})) != plain
    assert told(stream(event("a"))._replace(status=500)) != plain
    assert told(stream(event("a", version="1.2.4"))) != plain, "the fingerprint is that of the CLI that answers"


def test_choices_that_come_as_they_come_are_told_one_after_the_other() -> None:
    a, b, c, d = event("a"), event("b", index=1), event("c"), event("d", index=1)
    assert told(stream(a + b + c + d)) == told(stream(b + a + d + c))
    assert told(stream(a + b + c + d)) != told(stream(c + b + a + d))


def test_keepalives_are_told_where_they_are_the_point() -> None:
    keepalive = ": keepalive 1795148308910\n\n"
    quiet, one, two = event("a"), keepalive + event("a"), 2 * keepalive + event("a")
    assert told(stream(quiet)) == told(stream(one))
    assert told(stream(one), keeps_alive=True) == told(stream(two), keeps_alive=True)
    assert told(stream(one), keeps_alive=True) != told(stream(quiet), keeps_alive=True)


def test_ids_of_the_cli_are_not_told_and_words_are() -> None:
    body = {"model": "m", "input": [{"id": "msg_1", "role": "user", "content": "hi"}], "prompt_cache_key": "x"}
    assert model_text(body, is_cut=False) == (
        '--- the model was asked\n{"model": "m", "input": [{"role": "user", "content": "hi"}]}'
    )
    assert "left" in model_text(body, is_cut=True)


def test_ids_of_responses_and_of_their_items_are_told_as_numbers_and_understood_as_such() -> None:
    one, other = "0a" * 24, "0b" * 24
    ids = Ids()
    assert ids.told(f'"resp_{one}" "msg_{one}_0" "resp_{other}"') == '"resp_<1>" "msg_<1>_0" "resp_<2>"'
    assert ids.told(f"fc_{other}_in1") == "fc_<2>_in1"
    assert (
        ids.meant("/resp_<2>/input_items?after=msg_<1>_0&x=<1>") == f"/resp_{other}/input_items?after=msg_{one}_0&x=<1>"
    )


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(transcript, "GOLDEN", tmp_path)
    return tmp_path


def test_a_difference_is_the_lines_that_differ(golden: Path) -> None:
    transcript.write("plain", "Plain.", "<<< 200\n\none\ntwo\n", version="1.2.3", today="2026-01-02")
    assert difference("plain", "<<< 200\n\none\ntwo\n", version="1.2.4") == ""
    found = difference("plain", "<<< 200\n\none\nthree\n", version="1.2.4")
    assert "--- golden/plain.txt\n+++ Codex CLI 1.2.4\n" in found
    assert "\n one\n-two\n+three\n" in found
    assert "no golden transcript" in difference("other", "", version="1.2.4")


def test_a_transcript_is_written_anew_when_something_but_the_day_is_new(golden: Path) -> None:
    assert transcript.write("plain", "Plain.", "text\n", version="1.2.3", today="2026-01-02")
    assert not transcript.write("plain", "Plain.", "text\n", version="1.2.3", today="2026-01-03")
    assert "2026-01-02" in transcript.provenance("plain")
    assert transcript.write("plain", "Plain.", "text\n", version="1.2.4", today="2026-01-03")
    assert transcript.write("plain", "Plain.", "other\n", version="1.2.4", today="2026-01-04")
    assert transcript.read("plain") == "other\n"
    assert "Codex CLI 1.2.4" in transcript.provenance("plain")
