"""The clients of a scenario, for locust. `python -m loadtest.scenario NAME` starts everything; by hand:

    LOADTEST_SCENARIO="$(python -m loadtest.scenario partner-mix --json)" LOADTEST_KEYS='{"mobile": "sk-...", ...}' \
    locust -f loadtest/locustfile.py -H http://127.0.0.1:11435

In locust's statistics and its report: `answer`, exactly what was asked for, or a failure; `refused`, by status and
code; `left`, by our own choice; and under `token` the time to the first token and the longest gap of each stream, both
in ms, and tokens a second in the place of a time. Of tenants that do not count the type has their name. Totals and
charts are of answers alone, of tenants that count. For your own machines only.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from pathlib import Path
from typing import Any

import msgspec
import requests
from locust import LoadTestShape, User, events, task
from locust.env import Environment

from loadtest.scenario import MODEL, WORD, Scenario, Told

SCENARIO = msgspec.json.decode(os.environ["LOADTEST_SCENARIO"], type=Scenario)
KEYS = msgspec.json.decode(os.environ["LOADTEST_KEYS"], type=dict[str, str])
FEW_DELTAS = 3
TIMEOUT_S = 60.0
SPAWN_RATE = 100.0
AS_IT_COMES: Any = None
"""A chunk size for `iter_lines`, which its types do not know."""

_numbers = itertools.count()
_began_at = time.monotonic()


class Stages(LoadTestShape):
    """As many clients as the scenario says, moment by moment."""

    def tick(self) -> tuple[int, float] | None:
        users = SCENARIO.users_at(time.monotonic() - _began_at)
        return None if users is None else (users, SPAWN_RATE)


class Wrong(Exception):  # noqa: N818 - what a client says of an answer
    """The answer is not what was asked for."""


class Refused(Exception):  # noqa: N818
    """The service said no, in a way that it may."""


class Client(User):
    """One client of one tenant."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        number = next(_numbers)
        self.tenant = SCENARIO.tenant_of(number)
        self.dice = random.Random(number)
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {KEYS[self.tenant.name]}"
        self._asked = 0

    def wait_time(self) -> float:
        """The pause after a question."""
        self._asked += 1
        if self._asked % self.tenant.burst:
            return 0.0
        mean_s = self.tenant.think_s * self.tenant.burst
        return self.dice.expovariate(1 / mean_s) if mean_s else 0.0

    @task
    def ask(self) -> None:
        """One question, and all that is told of it."""
        early_s = SCENARIO.seconds * self.tenant.from_part - (time.monotonic() - _began_at)
        if early_s > 0:
            time.sleep(min(early_s, 1.0))
            return
        mix, dice = SCENARIO.mix, self.dice
        is_chat, is_stream = dice.random() < mix.chat, dice.random() < mix.stream
        deltas = mix.deltas.draw(dice)
        name = f"{'chat' if is_chat else 'responses'} {'stream' if is_stream else 'whole'}"
        self._began_at = time.perf_counter()
        try:
            response = self.session.post(
                f"{self.host}/v1/{'chat/completions' if is_chat else 'responses'}",
                json=self._body(deltas, is_chat=is_chat, is_stream=is_stream),
                stream=is_stream,
                timeout=TIMEOUT_S,
            )
            with response:
                if response.status_code != 200:
                    raise _refusal(response)
                if not is_stream:
                    _check(_whole_text(response.json(), is_chat=is_chat).count(WORD), deltas)
                elif dice.random() < mix.leave:
                    self._leave(response, name)
                    return
                else:
                    self._read(response, deltas)
        except Refused as refusal:
            self._tell("refused", str(refusal))
        except (Wrong, requests.RequestException, ValueError, LookupError) as error:
            self._tell("answer", name, exception=error)
        else:
            self._tell("answer", name)

    def _body(self, deltas: int, *, is_chat: bool, is_stream: bool) -> dict[str, Any]:
        mix = SCENARIO.mix
        directive: dict[str, Any] = {"chunks": [WORD], "repeat": deltas, "delay_s": mix.delay_s}
        directive["interval_s"] = mix.interval_s
        if self.tenant.faults:
            directive |= self.dice.choice(self.tenant.faults)
        text = f"{'question ' * (mix.prompt_chars.draw(self.dice) // 9)}@@{msgspec.json.encode(directive).decode()}"
        asked = {"messages": [{"role": "user", "content": text}]} if is_chat else {"input": text, "store": False}
        return {"model": MODEL, "stream": is_stream, **asked}

    def _read(self, response: requests.Response, deltas: int) -> None:
        """A stream, and the times of its tokens."""
        first_at = last_at = gap_s = 0.0
        count, is_over = 0, False
        for line in response.iter_lines(chunk_size=AS_IT_COMES):
            if line.startswith(b'data: {"error"') or b'"type":"response.failed"' in line:
                raise _stream_error(line)
            is_over = is_over or line == b"data: [DONE]" or b'"type":"response.completed"' in line
            if not _is_delta(line):
                continue
            now = time.perf_counter()
            gap_s = max(gap_s, now - last_at) if count else 0.0
            first_at, last_at, count = first_at or now, now, count + 1
        if not is_over:
            raise Wrong("the stream has no end")
        _check(count, deltas)
        self._tell("token", "first token, ms", (first_at - self._began_at) * 1e3)
        if count > 1:
            self._tell("token", "longest gap, ms", gap_s * 1e3)
            self._tell("token", "tokens a second", (count - 1) / max(1e-6, last_at - first_at))

    def _leave(self, response: requests.Response, name: str) -> None:
        """Read a little, and hang up."""
        few = (line for line in response.iter_lines(chunk_size=AS_IT_COMES) if _is_delta(line))
        for _ in itertools.islice(few, FEW_DELTAS):
            pass
        self._tell("left", name)

    def _tell(self, kind: str, name: str, value: float | None = None, exception: Exception | None = None) -> None:
        if value is None:
            value = (time.perf_counter() - self._began_at) * 1e3
        if kind == "answer" and self.tenant.counts:
            self.environment.events.request.fire(
                request_type=kind, name=name, response_time=value, response_length=0, exception=exception, context={}
            )
            return
        entry = self.environment.stats.get(name, kind if self.tenant.counts else f"{self.tenant.name}: {kind}")
        entry.log(value, 0)
        if exception is not None:
            entry.log_error(exception)


def _is_delta(line: bytes) -> bool:
    """The line is an event with one word of an answer."""
    is_piece = b'"chat.completion.chunk"' in line or b'"type":"response.output_text.delta"' in line
    return is_piece and WORD.encode() in line


def _check(count: int, deltas: int) -> None:
    if count != deltas:
        raise Wrong(f"{'too few' if count < deltas else 'too many'} words")


def _whole_text(body: Any, *, is_chat: bool) -> str:
    if is_chat:
        return str(body["choices"][0]["message"]["content"])
    return "".join(part["text"] for item in body["output"] for part in item.get("content", ()))


def _refusal(response: requests.Response) -> Exception:
    """A refusal comes with 429 or 503; everything else is broken."""
    code = response.json()["error"]["code"]
    what = f"{response.status_code} {code}"
    return Refused(what) if response.status_code in (429, 503) else Wrong(what)


def _stream_error(line: bytes) -> Exception:
    """A refusal that came when the status was committed, or an answer that broke."""
    body = msgspec.json.decode(line.removeprefix(b"data: "))
    code = (body.get("error") or body.get("response", {}).get("error") or {}).get("code")
    is_refusal = code in ("queue_timeout", "queue_shed", "deadline_exceeded")
    return Refused(f"200 {code}") if is_refusal else Wrong(f"in the stream: {code}")


def _on_quitting(environment: Environment, **_: Any) -> None:
    """Leave what the scenario is judged by."""
    told = Told()
    for entry in environment.stats.entries.values():
        if entry.method == "answer":
            told.answers += entry.num_requests - entry.num_failures
            told.broken += entry.num_failures
        elif entry.method == "refused":
            told.refused += entry.num_requests
        elif entry.name == "first token, ms" and entry.method == "token":
            told.first_token_p95_ms = entry.get_response_time_percentile(0.95)
        elif entry.name == "longest gap, ms" and entry.method == "token":
            told.gap_p95_ms = entry.get_response_time_percentile(0.95)
    reasons = [str(error.error) for error in environment.stats.errors.values() if error.method == "answer"]
    told.why_broken = ", ".join(sorted(set(reasons)))[:500]
    if "LOADTEST_OUT" in os.environ:
        Path(os.environ["LOADTEST_OUT"]).write_bytes(msgspec.json.encode(told))
    environment.process_exit_code = 0


_quitting: Any = events.quitting
_quitting.add_listener(_on_quitting)
