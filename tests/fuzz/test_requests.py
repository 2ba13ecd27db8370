"""Whatever is sent, the answer is an answer or an error in OpenAI's shape, never a 500, and the service stays well."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from tests.fuzz.bodies import BODIES, RIGHT, RIGHT_RESPONSES, nearly
from tests.support.examples import trying
from tests.support.services import AUTHORIZED, JSON_BODY, WAIT_S, Answer
from tests.support.serving import Served

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
PATHS = [
    CHAT,
    RESPONSES,
    "/v1/models",
    "/v1/models/codex-5",
    "/healthz",
    "/readyz",
    "/livez",
    "/metrics",
    "/none",
]
VERBS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"]
OWED = {"tool_choice_not_followed", "response_format_not_followed"}
"""502s that a right request may well get: nobody told the scripted model what to say."""


LAST = re.compile(rb"^event: response\.(?:completed|incomplete|failed)$", re.MULTILINE)


class Line:
    """One connection after the other; each for as long as the service keeps it."""

    def __init__(self, served: Served) -> None:
        self._address = served.url.removeprefix("http://")
        self._connection = http.client.HTTPConnection(self._address, timeout=WAIT_S)

    def send(self, method: str, path: str, data: bytes, headers: Mapping[str, str]) -> Answer:
        """One request, its answer read to the end."""
        try:
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):  # it was idle for too long, or refused before
            self._connection.close()
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
        answer = Answer(response.status, CIMultiDict(response.getheaders()), response.read())
        if response.will_close:
            self._connection.close()
        return answer

    def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes and the end of them."""
        host, _, port = self._address.partition(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as line:
            received = b""
            try:
                line.sendall(data)
                line.shutdown(socket.SHUT_WR)
                while piece := line.recv(65536):
                    received += piece
            except ConnectionError:
                pass
            return received

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def line(served: Served) -> Iterator[Line]:
    opened = Line(served)
    yield opened
    opened.close()


def check(answer: Answer) -> None:
    """It is an answer, or an error that is the client's to mend."""
    event(str(answer.status))
    assert answer.headers["x-request-id"].startswith("req_")
    if answer.status < 400:
        if answer.raw.startswith(b"event: response."):
            assert len(LAST.findall(answer.raw)) == 1, answer.raw[-500:]
        elif answer.headers.get("Content-Type") == "text/event-stream":
            stream = answer.stream
            assert stream.is_done != bool(stream.errors)
            assert {error["code"] for error in stream.errors} <= OWED
        return
    if answer.raw:  # there is none to a HEAD
        code = answer.code
        assert answer.status < 500 or (answer.status, code in OWED) == (502, True), answer.raw


def over_http(times: float) -> settings:
    return settings(trying(times), suppress_health_check=[*HealthCheck])


BOTH = pytest.mark.parametrize("served", ["fakes", pytest.param("cli", marks=pytest.mark.codex)], indirect=True)


@BOTH
@over_http(3)
@given(data=nearly(RIGHT))
def test_a_nearly_right_chat_request_is_answered_or_refused(line: Line, data: bytes) -> None:
    check(line.send("POST", CHAT, data, AUTHORIZED | JSON_BODY))


@BOTH
@over_http(2)
@given(data=nearly(RIGHT_RESPONSES))
def test_a_nearly_right_request_for_a_response_is_answered_or_refused(line: Line, data: bytes) -> None:
    check(line.send("POST", RESPONSES, data, AUTHORIZED | JSON_BODY))


@over_http(2)
@given(path=st.sampled_from([CHAT, RESPONSES]), data=BODIES)
def test_any_body_is_answered_or_refused(line: Line, path: str, data: bytes) -> None:
    check(line.send("POST", path, data, AUTHORIZED | JSON_BODY))


NAMES = st.sampled_from(
    [
        *(
            "Content-Type",
            "Content-Encoding",
            "Authorization",
            "Accept",
            "Accept-Encoding",
            "User-Agent",
            "Origin",
            "Cookie",
        ),
        *(
            "x-request-deadline-ms",
            "x-priority",
            "x-request-id",
            "x-proxy-output-mode",
            "X-No-Keepalive",
            "OpenAI-Beta",
        ),
        *("Access-Control-Request-Method", "Range", "If-None-Match", "Forwarded", "X-Forwarded-For", "traceparent"),
        *(
            "x-proxy-stop-after-tools",
            "x-proxy-tool-block-max",
            "x-codex-metadata",
            "Idempotency-Key",
            "Via",
            "Upgrade",
        ),
    ]
) | st.text("abcxyz-_.!#$%&'*+^`|~09", min_size=1, max_size=12)
TEXTS = st.sampled_from(
    [
        *("", "0", "-1", "1e9", "9" * 40, "true", "null", "identity", "gzip", "br", "gzip, gzip", "application/json"),
        *("application/json; charset=utf-16", "text/plain", "multipart/form-data; boundary=x", "; = ,", '"', "Bearer"),
        *(
            "Basic QQ==",
            "Bearer ",
            "interactive",
            "batch",
            "*",
            "null",
            "http://a",
            "websocket",
            "x" * 5000,
            "\xff\xfe",
        ),
    ]
) | st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
HEADERS = st.dictionaries(NAMES, TEXTS, max_size=4)


@over_http(2)
@given(method=st.sampled_from(["POST"] * 5 + VERBS[:7]), path=st.sampled_from(PATHS[:2] * 4 + PATHS), headers=HEADERS)
def test_any_headers_on_any_route_are_answered_or_refused(
    line: Line, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = line.send(method, path, json.dumps(RIGHT[0]).encode(), AUTHORIZED | JSON_BODY | headers)
    if answer.status == 504:
        assert answer.code == "deadline_exceeded"
    else:
        check(answer)


HEAD = "{} {} HTTP/1.1\r\nHost: a\r\n{}: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@st.composite
def rubbish(draw: st.DrawFn) -> bytes:
    """A request with holes, dirt and lies in it."""
    data = json.dumps(draw(st.sampled_from(RIGHT))).encode()
    lie = draw(st.sampled_from([0, 0, 0, 1, -1, 10**9, 10**30, -(10**3)]))
    (key,) = AUTHORIZED.items()
    head = HEAD.format(draw(st.sampled_from(VERBS)), draw(st.sampled_from(PATHS)), *key, len(data) + lie)
    raw = head.encode() + data
    for _ in range(draw(st.integers(0, 3))):
        at, until = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(head)))))
        until = min(until, at + 40)
        raw = (
            raw[:at]
            + draw(st.binary(max_size=8) | st.sampled_from([b"\r\n", b"\0", b": ", b"%00", b"\r\n\r\n"]))
            + raw[until:]
        )
    return raw


@over_http(2)
@given(raw=rubbish() | st.binary(max_size=100))
def test_any_bytes_are_answered_or_refused(line: Line, raw: bytes) -> None:
    received = line.raw(raw)
    if not received or received.startswith(b"HTTP/1.1 100"):
        return
    assert received.startswith(b"HTTP/"), received[:200]
    status = int(received.split(b" ", 2)[1])
    head, _, rest = received.partition(b"\r\n\r\n")
    assert status < 500, received[:500]
    assert b"x-request-id: req_" in head
    if status >= 400 and b"\r\nContent-Length: 0" not in head and not raw.startswith(b"HEAD"):
        assert rest.startswith(b'{"error":{"message":'), received[:500]
