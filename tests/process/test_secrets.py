"""Nothing that a client, a model, a worker or an operator says is found in a log, a metric, a page or a file.

Every place that anything can be put into gets a word of its own, so that a leak says where it came from. The service
runs as its command runs it, with details logged, traces and usage on, and operators asking for all there is; with
scripted workers, and with the real CLI in front of a stand-in model.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from loadtest.fake_app_server import write_launcher
from pool.binary import resolve
from service.admin import api as admin_api
from tests.support.images import data_url, png
from tests.support.services import JSON_BODY, Answer, Json, key, processes
from tests.support.serving import ENVIRON, Served, child, wait_until

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


WORD = "zanzibarzq"
"""Every word begins with this."""


class Marks:
    """Words that nothing but this test says, by where they were put."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}

    def __call__(self, place: str) -> str:
        """The word for this place."""
        return self.words.setdefault(place, f"{WORD}{len(self.words):03}qz")

    def key(self, place: str) -> str:
        """Likewise, as long and as colourful as a key has to be."""
        return self.words.setdefault(place, f"sk-{self(f'within {place}')}-0123456789abcdefgh")

    def found(self, text: bytes) -> set[str]:
        """The places whose words are in `text`; in base 64 it cannot be told which."""
        numbers = {word: place for place, word in self.words.items()}
        plain = {f"{WORD}{number.decode()}qz" for number in _PLAIN.findall(text)}
        hidden = {"something in base 64"} if any(form in text for form in _ENCODED) else set()
        return {numbers[word] for word in plain} | hidden


_PLAIN = re.compile(rb"(?i)" + WORD.encode() + rb"(\d{3})qz")
_ENCODED = tuple(base64.b64encode(b"\0" * before + WORD.encode())[4 if before else 0 : -4] for before in range(3))
"""What of the word is the same wherever it begins."""


def test_a_word_is_found_however_it_stands_there() -> None:
    marks = Marks()
    word = marks("prompt")
    assert marks.found(b"nothing") == set()
    assert marks.found(f"x{word.upper()}x".encode()) == {"prompt"}
    for before in range(5):
        assert marks.found(base64.b64encode(b"a" * before + word.encode())) == {"something in base 64"}


class House:
    """A service, and everything that it writes."""

    def __init__(self, folder: Path, marks: Marks, codex: Path, provider: str, *, patience_s: float) -> None:
        self.folder = folder
        self.marks = marks
        self.api_key = marks.key("api key")
        self.admin_key = marks.key("admin key")
        self.said: list[bytes] = []
        """What was answered to operators and to machines."""
        self._provider = provider
        self._patience_s = patience_s
        self._config = folder / "service.toml"
        self._config.write_text(tomli_w.dumps(self._settings(codex)))

    @contextmanager
    def serve(self) -> Iterator[Served]:
        """Serve; afterwards it has ended."""
        environ = ENVIRON | {
            "HOME": str(self.folder),
            "CODEX_COMPLETIONS_API_KEY": self.api_key,
            "UPSTREAM": self.marks.key("provider key"),
            "SIDE": self.marks("passed variable"),
            "UNUSED": self.marks("variable"),
        }
        out, log = (self.folder / name for name in ("out", "log"))
        command = [sys.executable, "-m", "service", "--config", str(self._config), "serve"]
        with (
            out.open("wb") as stdout,
            log.open("wb") as stderr,
            subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environ) as process,
        ):
            try:
                wait_until(lambda: process.poll() is not None or '"service.started"' in log.read_text())
                self.pid = process.pid
                yield Served(self.logged("service.started")[0]["url"])
            finally:
                process.terminate()
                assert process.wait(20) == 0, log.read_text()

    def logged(self, event: str) -> list[Json]:
        """The lines of one kind."""
        lines = [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Everything under the folder but what was put there, and the store, which is there to keep answers."""
        for path in self.folder.rglob("*"):
            name = str(path.relative_to(self.folder))
            is_ours = (
                path.is_file() and not path.is_symlink() and not name.startswith(("state/responses.sqlite", "given"))
            )
            if is_ours and path != self._config:
                yield name, path.read_bytes()

    def arguments(self) -> Iterator[tuple[str, bytes]]:
        """The command lines of the service and of its workers."""
        for row in processes():
            if self.pid in (row.pid, row.parent):
                yield f"arguments of {row.pid}", Path(f"/proc/{row.pid}/cmdline").read_bytes()

    def ask_as_operator(self, request_id: str, worker: str) -> None:
        """Everything that an operator can ask for."""
        url = self.logged("admin.started")[0]["url"]
        admin = Served(url.removesuffix("/admin/"))
        headers = {"Authorization": f"Bearer {self.admin_key}"}
        targets = {"tickets": request_id, "workers": worker}
        for path in admin_api.QUESTIONS:
            kind = path.split("/")[3] if path.count("/") > 3 else ""
            answer = admin.call("GET", re.sub(r"\{.*\}", targets.get(kind, ""), path), None, **headers)
            assert answer.status == 200, (path, answer.raw)
            self.said.append(answer.raw)
        refused = admin.call(
            "GET",
            f"/admin/api/status?{self.marks('admin query')}=1",
            None,
            **{
                "Authorization": f"Bearer {self.marks.key('wrong admin key')}",
                "X-Forwarded-For": self.marks("admin header"),
                "User-Agent": self.marks("admin agent"),
            },
        )
        assert refused.status == 401

    def _settings(self, codex: Path) -> Json:
        given = self.folder / "given"
        given.mkdir()
        noisy = given / "noisy"
        noisy.write_text(f'#!/bin/sh\necho {self.marks("stderr")} >&2\nexec {shlex.quote(str(codex))} "$@"\n')
        sick = given / "sick"
        sick.write_text(f'#!/bin/sh\n[ "$1" = app-server ] || exec {shlex.quote(str(codex))} "$@"\nenv >&2\nexit 1\n')
        worker: Json = {
            "base_url": self._provider,
            "env_key": "UPSTREAM",
            "pass_env": ["SIDE"],
            "workers": 1,
            "probation_s": 0,
            "limits": {"idle_s": 0.5, "first_event_s": self._patience_s, "start_s": self._patience_s},
        }
        for path in (noisy, sick):
            path.chmod(0o755)
        operator = key("operator", self.admin_key).model_dump(include={"name", "sha256"})
        return {
            "state_dir": str(self.folder / "state"),
            "server": {"port": 0},
            "log": {"level": "debug"},
            "admin": {"port": 0, "keys": [operator]},
            "trace": {"sample": 1.0, "failures": True},
            "profiles": {
                "default": worker | {"codex_bin": str(noisy)},
                "sick": worker | {"codex_bin": str(sick), "required": False},
            },
            "models": {"codex-5": {}, "sick": {"profile": "sick"}},
        }


class Talker:
    """A client that says a marked word wherever it can."""

    def __init__(self, house: House, served: Served) -> None:
        self._mark = house.marks
        self._served = served
        self._headers = {"Authorization": f"Bearer {house.api_key}", **JSON_BODY, **self._marked_headers()}

    def chat(self, name: str, directive: Json, **fields: Any) -> Answer:
        """A chat completion with all there can be in one."""
        body = self.chat_body(name, directive) | fields
        return self._served.call("POST", CHAT, json.dumps(body).encode(), **self._headers)

    def respond(self, name: str, directive: Json, **fields: Any) -> Answer:
        """Likewise a response."""
        return self._served.call(
            "POST", RESPONSES, json.dumps(self.response_body(name, directive) | fields).encode(), **self._headers
        )

    def chat_body(self, name: str, directive: Json) -> Json:
        mark = self._mark
        call: Json = {"name": "weigh", "arguments": json.dumps({"of": mark("argument")})}
        image = {"type": "image_url", "image_url": {"url": data_url(png() + mark("image").encode())}}
        return {
            "model": "codex-5",
            "messages": [
                {"role": "system", "content": mark("system")},
                {"role": "developer", "content": mark("developer")},
                {"role": "user", "content": mark("earlier prompt")},
                {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
                {"role": "tool", "tool_call_id": "call_1", "content": mark("tool result")},
                {"role": "assistant", "content": mark("earlier answer")},
                {"role": "user", "content": [self._text(name, directive), image]},
            ],
            "tools": [{"type": "function", "function": self._tool()}],
            "metadata": {mark("metadata key"): mark("metadata value")},
            "user": mark("user"),
            "stop": [mark("stop sequence")],
            "safety_identifier": mark("safety identifier"),
            "prompt_cache_key": mark("cache key"),
        }

    def response_body(self, name: str, directive: Json) -> Json:
        mark = self._mark
        text = self._text(name, directive)["text"]
        image = {"type": "input_image", "image_url": data_url(png() + mark("image").encode())}
        return {
            "model": "codex-5",
            "instructions": mark("instructions"),
            "input": [
                {"role": "user", "content": mark("earlier prompt")},
                {
                    "type": "function_call",
                    "call_id": "c1",
                    "name": "weigh",
                    "arguments": f'{{"of":"{mark("argument")}"}}',
                },
                {"type": "function_call_output", "call_id": "c1", "output": mark("tool result")},
                {"role": "user", "content": [{"type": "input_text", "text": text}, image]},
            ],
            "tools": [{"type": "function", **self._tool()}],
            "metadata": {mark("metadata key"): mark("metadata value")},
            "user": mark("user"),
        }

    def misbehave(self) -> list[int]:
        """Everything that is wrong; the statuses of the answers."""
        mark, call = self._mark, self._served.call
        headers = dict(self._headers)
        wrong = headers | {"Authorization": f"Bearer {mark.key('wrong key')}"}
        body = self.chat_body("wrong", {})
        sent: list[tuple[str, str, bytes, dict[str, str]]] = [
            ("POST", CHAT, json.dumps(body | {"model": mark("model")}).encode(), headers),
            ("POST", CHAT, json.dumps(body | {mark("unknown field"): mark("unknown value")}).encode(), headers),
            ("POST", CHAT, json.dumps(body | {"stop": 5, "user": mark("bad user")}).encode(), headers),
            ("POST", CHAT, f'{{"model": "{mark("broken body")}'.encode(), headers),
            ("POST", CHAT, json.dumps(body).encode(), headers | {"Content-Type": f"text/{mark('content type')}"}),
            ("POST", CHAT, json.dumps(body).encode(), headers | {"Content-Encoding": mark("encoding")}),
            ("POST", CHAT, json.dumps(body).encode(), headers | {"x-priority": mark("priority")}),
            ("POST", CHAT, json.dumps(body).encode(), headers | {"x-request-deadline-ms": mark("deadline")}),
            ("POST", CHAT, json.dumps(body).encode(), headers | {"Expect": mark("expectation")}),
            ("POST", CHAT, json.dumps(body).encode(), wrong),
            ("POST", CHAT, json.dumps(body).encode(), headers | {"Authorization": mark("authorization scheme")}),
            ("POST", CHAT, json.dumps(self._with_image("https://zq.invalid/")).encode(), headers),
            ("POST", CHAT, json.dumps(self._with_image("data:image/png;base64,")).encode(), headers),
            (
                "POST",
                RESPONSES,
                json.dumps({"model": "codex-5", "input": mark("input"), "store": "x"}).encode(),
                headers,
            ),
            ("POST", RESPONSES, json.dumps(self.response_body("p", {}) | self._previous()).encode(), headers),
            ("GET", f"{RESPONSES}/resp_{mark('response id')}", b"", headers),
            ("GET", f"/{mark('path')}/x?{mark('query name')}={mark('query value')}", b"", headers),
            ("GET", f"/v1/models/{mark('model path')}", b"", headers),
            ("GET", f"/v1/usage?start={mark('usage query')}", b"", headers),
            (mark("verb").upper(), CHAT, b"", headers),
            ("PUT", CHAT, mark("put body").encode(), headers),
            ("OPTIONS", CHAT, b"", {"Origin": f"https://{mark('origin')}.example"}),
        ]
        statuses = [call(method, path, data, **rest).status for method, path, data, rest in sent]
        heads = (
            f"GET /{mark('raw path')} HTTP/9.9\r\n\r\n",
            f"{mark('raw line')}\r\n\r\n",
            f"GET / HTTP/1.1\r\nHost: x\r\n{mark('raw header')}\r\n\r\n",
            f"GET / HTTP/1.1\r\nHost: {mark('host')}\r\nX-Long: {mark('long header') * 2000}\r\n\r\n",
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{mark('raw chunk')}\r\n",
        )
        return [*statuses, *map(self._raw, heads)]

    def leave(self) -> None:
        """Go in the middle of an answer, and in the middle of a question."""
        body = json.dumps(self.chat_body("left", self._talking()) | {"stream": True}).encode()
        names = "".join(f"{name}: {value}\r\n" for name, value in self._headers.items())
        for length, sent in ((len(body), body), (len(body) + 100, body)):
            with self._connected() as connection:
                head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{names}\r\n"
                connection.sendall(head.encode() + sent)
                if length == len(body):
                    assert connection.recv(100)

    # --- inside ----------------------------------------------------------------------------------------------

    def _talking(self) -> Json:
        return {"chunks": [f"{self._mark('abandoned answer')} "], "repeat": 10_000, "interval_s": 0.01}

    def _text(self, name: str, directive: Json) -> Json:
        return {
            "type": "text",
            "text": f"{self._mark('prompt')} {self._mark(f'prompt {name}')} @@{json.dumps(directive)}",
        }

    def _tool(self) -> Json:
        mark = self._mark
        schema = {"type": "object", "properties": {mark("parameter"): {"type": "string"}}}
        return {"name": "weigh", "description": mark("tool description"), "parameters": schema}

    def _with_image(self, url: str) -> Json:
        body = self.chat_body("image", {})
        body["messages"][-1]["content"][1]["image_url"]["url"] = url + self._mark("image url")
        return body

    def _previous(self) -> Json:
        return {"previous_response_id": f"resp_{self._mark('previous response')}"}

    def _marked_headers(self) -> dict[str, str]:
        names = ("User-Agent", "Referer", "Cookie", "X-Forwarded-For", "X-Real-Ip", "Idempotency-Key", "X-Whatever")
        known = ("x-request-id", "x-trace-id", "traceparent", "tracestate", "OpenAI-Organization", "X-Stainless-Lang")
        return {name: self._mark(f"header {name}") for name in (*names, *known)}

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        host, _, port = self._served.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            yield connection

    def _raw(self, head: str) -> int:
        with self._connected() as connection:
            connection.sendall(head.encode())
            return int(connection.recv(100).split()[1])


OF_THE_CLI = {"provider error", "provider code", "provider type", "failed", "failed code"}
"""Of a provider's errors this is in the CLI's own log, which cannot be switched off, until the worker has ended."""


def answers(mark: Marks) -> dict[str, Json]:
    """What a model may say or do, with a word of its own in all of it."""
    failing = {"message": mark("provider error"), "code": mark("provider code"), "type": mark("provider type")}
    call = {"name": "weigh", "arguments": json.dumps({mark("answered parameter"): mark("answered argument")})}
    return {
        "text": {"text": f"{mark('answer')} and {mark('more answer')}", "reasoning": mark("reasoning")},
        "call": {"tool_calls": [call], "text": mark("text with a call")},
        "refused": {"status": 400, "error": failing},
        "unauthorized": {"status": 401, "error": failing},
        "missing": {"status": 404, "error": failing},
        "limited": {"status": 429, "error": failing},
        "broken": {"status": 500, "error": failing},
        "failed": {"text": mark("half an answer"), "failed": {"code": mark("failed code"), "message": mark("failed")}},
        "cut": {"text": mark("cut answer"), "incomplete": "max_output_tokens"},
        "silent": {"text": mark("silent answer"), "hang": "middle"},
        "dropped": {"text": mark("dropped answer"), "disconnect": "middle"},
    }


FAKE_ONLY: dict[str, Json] = {
    "exits": {"exit": 3},
    "talks nonsense": {"garbage": True},
    "loses an answer": {"lose_reply": "turn/start", "hang": "first"},
    "asks": {"server_request": "item/commandExecution/requestApproval"},
    "obeys nobody": {"misspelt": 1},
}


def tell_everything(house: House, served: Served, more: dict[str, Json]) -> None:
    """Every word, everywhere; the answers are looked at, or nothing would be proved."""
    talker = Talker(house, served)
    marks = house.marks
    told: dict[tuple[str, str], Answer] = {}
    for name, directive in more.items():
        talker.chat(name, directive)
    for name, directive in answers(marks).items():
        told[name, "whole"] = talker.chat(name, directive)
        told[name, "stream"] = talker.chat(name, directive, stream=True)
        told[name, "response"] = talker.respond(name, directive)
        talker.respond(name, directive, stream=True)
    assert marks("answer") in told["text", "whole"].text
    assert marks("answer") in told["text", "stream"].stream.text
    assert marks("answered argument").encode() in told["call", "whole"].raw
    assert told["refused", "whole"].status == 400
    assert marks("provider error") in told["refused", "whole"].error["message"], "the client is told"
    assert told["limited", "whole"].status == 429
    stored = told["text", "response"].json["id"]
    background = talker.respond("background", answers(marks)["text"], background=True).json["id"]
    headers = {"Authorization": f"Bearer {house.api_key}"}
    for path in (stored, background, f"{stored}/input_items"):
        assert served.call("GET", f"{RESPONSES}/{path}", None, **headers).status == 200
    assert talker.chat("sick", {}, model="sick").status == 503
    statuses = talker.misbehave()
    assert max(statuses) < 500, statuses
    assert sum(status >= 400 for status in statuses) >= len(statuses) - 2, statuses
    talker.leave()
    wait_until(lambda: len(house.logged("job.settled")) == len(house.logged("job.admitted")) > 40)
    for path in ("/metrics", "/healthz", "/readyz", "/livez", "/v1/models", "/v1/usage", "/v1/usage/raw?limit=1000"):
        answer = served.call("GET", path, None, **headers)
        assert answer.status == 200, path
        house.said.append(answer.raw)
    answered = house.logged("request.answered")
    worker = next(line["worker"] for line in reversed(answered) if "worker" in line)
    house.ask_as_operator(told["text", "whole"].headers["x-request-id"], worker)


def assert_nothing_is_told(house: House, *, is_alive: bool) -> None:
    """No word is where it must not be."""
    places = [*house.files(), *(house.arguments() if is_alive else ())]
    places += [(f"answer {number}", text) for number, text in enumerate(house.said)]
    found = {name: house.marks.found(text) for name, text in places}
    for name in found:
        if is_alive and "/codex-home/logs_2.sqlite" in name:
            found[name] -= OF_THE_CLI
    assert {name: leaks for name, leaks in found.items() if leaks} == {}
    assert {"log", "out"} <= found.keys()
    assert any(name.startswith("state/usage") for name in found)
    assert any(name.startswith("state/trace-buffer/") for name in found)
    assert any(name.startswith("state/codex-completions-run-") for name in found) is is_alive


def test_scripted_workers_and_all_that_may_go_wrong_with_them_tell_no_secret(tmp_path: Path) -> None:
    marks = Marks()
    house = House(tmp_path, marks, write_launcher(tmp_path / "codex"), "http://127.0.0.1:1", patience_s=1.0)
    with house.serve() as served:
        tell_everything(house, served, FAKE_ONLY)
        assert_nothing_is_told(house, is_alive=True)
    assert_nothing_is_told(house, is_alive=False)
    tails = [line["tail"] for line in house.logged("worker.stderr") if line["worker"].startswith("sick/")]
    assert tails
    assert all("CODEX_COMPLETIONS_UPSTREAM_KEY=[redacted]" in tail for tail in tails), "the rest is told"
    assert "SIDE=[redacted]" in tails[0]


@pytest.mark.codex
def test_the_real_cli_and_all_that_a_provider_may_say_tell_no_secret(tmp_path: Path) -> None:
    marks = Marks()
    with child("loadtest.model_standin", "--exit-with-stdin", env=ENVIRON | {"HOME": str(tmp_path)}) as model:
        assert model.stdout is not None
        provider = model.stdout.readline().split()[-1]
        house = House(tmp_path, marks, resolve(None), provider, patience_s=10.0)
        with house.serve() as served:
            tell_everything(house, served, {})
            seen = Served(provider.removesuffix("/v1")).get("/requests?detail=1").raw
            assert {"prompt", "system", "tool result", "within provider key", "something in base 64"} <= marks.found(
                seen
            )
            assert_nothing_is_told(house, is_alive=True)
            for pid in [row.pid for row in processes() if row.parent == house.pid]:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: len(house.logged("worker.booted")) >= 2)
            assert_nothing_is_told(house, is_alive=True)
        assert_nothing_is_told(house, is_alive=False)


def test_what_is_wrong_with_a_configuration_is_told_without_its_values(tmp_path: Path) -> None:
    marks = Marks()
    config = tmp_path / "service.toml"
    config.write_text("[server]\nport = 0\n")
    wrong: list[dict[str, str]] = [
        {"CODEX_COMPLETIONS_API_KEY": marks("weak key")},
        {"CODEX_COMPLETIONS_SERVER__PORT": marks("port")},
        {"CODEX_COMPLETIONS_KEYS": f'[{{"name": "{marks("name")} x", "sha256": "{marks("digest")}"}}]'},
        {"CODEX_COMPLETIONS_KEYS": marks("no json")},
        {"CODEX_COMPLETIONS_LOG__LEVEL": marks("level")},
        {"CODEX_COMPLETIONS_SERVER__CORS_ORIGINS": marks("origin")},
        {"CODEX_COMPLETIONS_API_KEY": marks.key("key"), "OPENAI_API_KEY": "", "PROXY_STOP_AFTER_TOOLS": marks("alias")},
    ]
    for environ in wrong:
        command = [sys.executable, "-m", "service", "--config", str(config), "serve"]
        whole = ENVIRON | {"HOME": str(tmp_path)} | environ
        found = subprocess.run(command, capture_output=True, env=whole, check=False, timeout=60)
        assert found.returncode in (2, 3), environ
        assert found.stderr, environ
        assert marks.found(found.stdout + found.stderr) == set(), found.stderr
