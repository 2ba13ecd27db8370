"""What a load generator hears of an answer, however its bytes come."""

from __future__ import annotations

import asyncio

import pytest

from loadtest.wire import Wire, chat

EVENTS = b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class RecordingTransport(asyncio.Transport):
    """Remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data


class RecordingWire(Wire):
    """Remembers what it heard."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[bytes] = []
        self.ends: list[tuple[int, bytes]] = []

    def on_events(self, events: bytes) -> None:
        self.events.append(events)

    def on_end(self, status: int, body: bytes) -> None:
        self.ends.append((status, body))


@pytest.fixture
def wire() -> RecordingWire:
    """One that has asked something."""
    wire = RecordingWire()
    wire.connection_made(RecordingTransport())
    wire.send(b"GET /")
    return wire


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


@pytest.mark.parametrize("cut", range(1, len(EVENTS)))
def test_a_chunk_may_end_within_an_event(wire: RecordingWire, cut: int) -> None:
    wire.data_received(HEAD + chunks(EVENTS[:cut], EVENTS[cut:]))
    assert (b"".join(wire.events), wire.ends) == (EVENTS, [(200, b"")])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_bytes_may_come_in_pieces_of_any_size(wire: RecordingWire, size: int) -> None:
    answer = HEAD + chunks(EVENTS[:20], EVENTS[20:30], EVENTS[30:])
    for at in range(0, len(answer), size):
        wire.data_received(answer[at : at + size])
    assert (b"".join(wire.events), wire.ends) == (EVENTS, [(200, b"")])
    assert all(events.endswith(b"\n\n") for events in wire.events)


def test_a_whole_answer_has_a_length_or_chunks(wire: RecordingWire) -> None:
    wire.data_received(b"HTTP/1.1 429 No\r\ncontent-length: 4\r\n\r\n{")
    wire.data_received(b"a}.")
    wire.send(b"GET /")
    wire.data_received(HEAD + chunks(b'{"b"', b":1}"))
    assert (wire.ends, wire.events) == ([(429, b"{a}."), (200, b'{"b":1}')], [])


def test_an_answer_that_is_cut_off_has_no_status(wire: RecordingWire) -> None:
    wire.data_received(HEAD + b"5\r\nhel")
    wire.connection_lost(None)
    assert [status for status, _ in wire.ends] == [0]


def test_a_request_has_the_headers_that_its_target_wants() -> None:
    assert b"\r\nx-provider: openai\r\n\r\n{}" in chat(80, "key", b"{}", {"x-provider": "openai"})
